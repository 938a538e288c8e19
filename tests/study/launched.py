"""What an engine is started with by a launch file, and whether its options are known.

Scripts are run by bash with programs that only tell how they were called.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

KNOWN = yaml.safe_load((Path(__file__).parent / "engine_options.yaml").read_text("utf-8"))

Called = dict[str, str | None]
"""Options of a call with their values, None of a switch."""

_TELL = "#!/usr/bin/env bash\nprintf '%s\\0' \"$@\"\n"


def called(text: str, place: Path, **variables: str) -> tuple[list[str], Called]:
    """Run a script in an empty directory; return what it calls its program with."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash here")
    programs = place / "programs"
    programs.mkdir(exist_ok=True)
    for name in ("vllm", "python3"):
        (programs / name).write_text(_TELL)
        (programs / name).chmod(0o755)
    (place / "script").write_text(text, encoding="utf-8")
    told = {"MODEL": "my model", "NODE_RANK": "0", "HEAD": "10.0.0.1", "AFD_HOST": "10.0.0.2"}
    environment = {"PATH": f"{programs}:/usr/bin:/bin", "LC_ALL": "C.UTF-8", **told, **variables}
    done = subprocess.run([bash, "script"], cwd=place, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return read(done.stdout.decode().split("\0")[:-1])


def read(words: list[str]) -> tuple[list[str], Called]:
    """Return the words in front of the options, and the options."""
    first = next(at for at, word in enumerate(words) if word.startswith("--"))
    options: Called = {}
    for at, word in enumerate(words):
        if word.startswith("--"):
            assert word not in options
            following = words[at + 1 : at + 2]
            options[word] = following[0] if following and following[0][:2] != "--" else None
    return words[:first], options


def worker_of(text: str) -> dict[str, Any]:
    """Return the worker's container of a graph deployment."""
    graph = yaml.safe_load(text)
    assert (graph["apiVersion"], graph["kind"]) == ("nvidia.com/v1beta1", "DynamoGraphDeployment")
    frontend, worker = graph["spec"]["components"]
    assert (frontend["type"], worker["type"]) == ("frontend", "worker")
    (main,) = worker["podTemplate"]["spec"]["containers"]
    assert all(isinstance(word, str) for word in [*main["command"], *main["args"]])
    return {**main, "engine": graph["spec"]["backendFramework"], "worker": worker, "graph": graph}


def check(option: str, value: str | None, known: Mapping[str, Any]) -> None:
    kind = known[option]
    if kind == "switch":
        assert value is None, option
        return
    assert value is not None, option
    if kind == "int":
        assert re.fullmatch(r"\d+", value), (option, value)
    elif kind == "float":
        assert 0 <= float(value) <= 1, (option, value)
    elif kind == "bool":
        assert value in ("true", "false"), (option, value)
    elif isinstance(kind, list):
        assert value in [str(each) for each in kind], (option, value)


def known_to(engine: str) -> dict[str, Any]:
    named = dict(KNOWN[engine]["options"])
    return named | (KNOWN["vllm"]["options"] if engine == "afd-plugin" else {})
