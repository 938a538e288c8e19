"""Fingerprints: SHA-256 of what varied runs write, to hold a refactoring to the same bytes.

    python -m tests.fingerprints > before.txt       # about three minutes on two cores
    … change the code …
    python -m tests.fingerprints | diff before.txt -

Everything goes through the command line, so the script knows nothing of modules. Tables, timelines
and JSON on stdout are hashed; provenance (run.json) and pages are not, since they name the commit.
"""

from __future__ import annotations

import gzip
import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests import small_study, tiny

SHORT = "simulation.max_steps=60"
SKEW = "routing={kind: power_law, alpha: 1.01, per_step: {placement: {kind: contiguous}}}"
HASHED = {".csv", ".parquet", ".gz", ".md"}

COMMANDS: dict[str, list[str]] = {
    "afd": ["run", "step3-2a2f", "--json", "--set", SHORT, "--timeline", "4:5"],
    "afd-event": [
        *("run", "step3-2a2f", "--json", "--set", "simulation.max_steps=22"),
        *("--set", "simulation.engine=event"),
    ],
    "afd-jitter": ["run", "step3-2a2f-jitter", "--json", "--set", SHORT],
    "afd-mixed": ["run", "step3-h20-h800", "--json", "--set", SHORT],
    "afd-gb200": ["run", "dsv3-afd-gb200", "--json", "--set", SHORT],
    "afd-routed": ["run", "dsv3-afd", "--json", "--set", SHORT],
    "ep": ["run", "dsv3-ep128", "--json", "--set", SHORT],
    "ep-mtp": ["run", "dsv3-ep72-h100-mtp", "--json", "--set", SHORT],
    "ep-power-law": ["run", "dsv3-ep8-h200", "--json", "--set", SHORT, "--set", SKEW],
    "ep-gqa": ["run", "qwen3-ep16", "--json", "--set", SHORT],
    "poisson": ["run", "poisson-example", "--json", "--set", "workload.arrivals.requests=300"],
    "bursts": ["run", "bursts-example", "--json", "--set", "workload.arrivals.requests=300"],
    "bound": ["run", "step3-2a2f", "--json", "--set", "simulation.engine=bound"],
    "explain-afd": ["explain", "step3-2a2f", "--json", "--stochastic"],
    "explain-ep": ["explain", "dsv3-ep128", "--json"],
    "theory": ["theory", "step3", "deepseek-v3", "--accelerator", "h800,h20", "--csv"],
    "timeline": ["timeline", "step3-2a2f", "--steps", "4:4", "--out", "timeline.json.gz"],
    "schema": ["schema"],
    "compare": ["compare", "step3-2a2f", "dsv3-ep128", "--json", "--most", "10", "--set", SHORT],
    "sweep": ["sweep", "afd-ratio", "--engine", "bound", "--json", "--out", "sweep"],
    "validation": ["sweep", "validation", "--json", "--out", "validation"],
    "study": ["study", "small.yaml", "--only", "pace=fast", "--json", "--out", "study"],
}


def fingerprints(names: list[str]) -> Iterator[str]:
    """Yield lines of SHA-256, command and file; `names` are of COMMANDS."""
    with tempfile.TemporaryDirectory() as made:
        for name in names:
            folder = Path(made) / name
            folder.mkdir()
            model = tiny.write_loaded_model(folder)
            (folder / "small.yaml").write_text(small_study.STUDY.format(model=model))
            words = COMMANDS[name]
            if words[0] == "run":
                words = [*words, "--out", "run"]
            command = [sys.executable, "-m", "sim.cli", *words]
            done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
            yield f"{_sha256(done.stdout)} {name} stdout, exit {done.returncode}"
            for path in sorted(folder.rglob("*")):
                if path.suffix in HASHED:
                    yield f"{_sha256(_content(path))} {name} {path.relative_to(folder)}"


def _content(path: Path) -> bytes:
    # The header of a gzip file holds the time of writing.
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


if __name__ == "__main__":
    for line in fingerprints(sys.argv[1:] or list(COMMANDS)):
        print(line, flush=True)
