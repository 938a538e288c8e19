"""Mutants: what users write, changed a little at random, the same for a number on every machine."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from sim.inputs import cards
from tests import small_study, tiny

# Traces and tables of a few lines, in the forms that are published.
RECORDINGS = {
    "azure.csv": "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    + "".join(f"2023-11-16 18:15:{46 + i}.6805900,{374 + i},{44 + i}\n" for i in range(12)),
    "burst.csv": "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    + "".join(f"{5 * i},ChatGPT,{472 + i},{18 + i},490,Conversation log\n" for i in range(12)),
    "mooncake.jsonl": "".join(
        f'{{"timestamp": {27482 + 900 * i}, "input_length": {695 + i}, "output_length": 52, '
        f'"hash_ids": [46, {47 + i}]}}\n'
        for i in range(12)
    ),
    "run.csv": "arrival_ns,prompt_tokens,output_tokens\n"
    + "".join(f"{i * 10**9},{512 + i},{20 + i}\n" for i in range(12)),
}
ROUTING = "layer,expert,share\n" + "".join(f"0,{e},{1 / 128}\n" for e in range(128))
FACTORS = "factor\n1.0\n1.02\n0.97\n1.5\n"

NUMBERS = (
    *("0", "-1", "1e400", "-0.0", ".inf", ".nan", "1e-320", "0x10", "1_000", "²", "１２", "5.3e12"),
    *("989", "3350", "1e30", "9223372036854775808", "1" + "0" * 500, "0.1", "true", "null", "~"),
)
TEXTS = (
    *("''", '"\\x1b[31mred"', "../../../x", "/etc/passwd", "[bold]x[/bold]", "x [/fp8] y", "=1+1"),
    *(
        "&a [*a, *a]",
        "{a: {b: {c: 1}}}",
        "[1, 2, 3]",
        "'" + "n" * 300 + "'",
        '"a\\0b"',
        "2020-01-01",
    ),
)
NUMBER = re.compile(r"(?<![\w.])-?\d+(\.\d+)?([eE][-+]?\d+)?")
SCALAR = re.compile(r": +([^\s{\[#][^,}\]#\n]*)")


class Mutant(NamedTuple):
    """A changed file among what it needs, and the verb and its words that read it."""

    files: dict[str, bytes]
    validate: list[str]
    run: list[str]
    """Words of a short run; empty for what is not run."""


def mutant(number: int) -> Mutant:
    """Return the mutant of a number."""
    rng = random.Random(number)
    kind = rng.choices(list(KINDS), weights=[weight for weight, _ in KINDS.values()])[0]
    return KINDS[kind][1](rng)


def changed(text: str, rng: random.Random) -> bytes:
    """Return `text` with one to three changes."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        text = rng.choice(CHANGES)(text, rng)
    data = text.encode("utf-8", "surrogatepass")
    if rng.random() < 0.03:
        data = data[: rng.randrange(len(data) + 1)] + bytes(rng.randrange(256) for _ in range(3))
    return data


def _another_number(text: str, rng: random.Random) -> str:
    return _replaced(NUMBER, 0, text, rng, lambda old: rng.choice(NUMBERS))


def _scaled_number(text: str, rng: random.Random) -> str:
    def scaled(old: str) -> str:
        power = rng.choice((-12, -9, -6, -3, -1, 1, 3, 6, 9, 12))
        value = float(old) * 10.0**power
        return f"{value:.17g}" if "." in old or "e" in old or power < 0 else f"{int(value)}"

    return _replaced(NUMBER, 0, text, rng, scaled)


def _another_scalar(text: str, rng: random.Random) -> str:
    return _replaced(SCALAR, 1, text, rng, lambda old: rng.choice((*TEXTS, *NUMBERS)))


def _replaced(
    pattern: re.Pattern[str], group: int, text: str, rng: random.Random, new: Callable[[str], str]
) -> str:
    found = list(pattern.finditer(text))
    if not found:
        return text
    match = rng.choice(found)
    return text[: match.start(group)] + new(match[group]) + text[match.end(group) :]


def _without_a_line(text: str, rng: random.Random) -> str:
    lines = text.splitlines(keepends=True)
    return "".join(lines[:-1] if len(lines) < 2 else _dropped(lines, rng.randrange(len(lines))))


def _dropped(lines: list[str], at: int) -> list[str]:
    return lines[:at] + lines[at + 1 :]


def _a_line_twice(text: str, rng: random.Random) -> str:
    lines = text.splitlines(keepends=True)
    at = rng.randrange(len(lines)) if lines else 0
    return "".join(lines[: at + 1] + lines[at : at + 1] + lines[at + 1 :])


def _two_lines_swapped(text: str, rng: random.Random) -> str:
    lines = text.splitlines(keepends=True)
    if len(lines) > 1:
        at = rng.randrange(len(lines) - 1)
        lines[at], lines[at + 1] = lines[at + 1], lines[at]
    return "".join(lines)


def _a_word_misspelt(text: str, rng: random.Random) -> str:
    return _replaced(re.compile(r"[a-z_]{4,}"), 0, text, rng, lambda old: old[:-2] + old[-1])


def _a_sign_more(text: str, rng: random.Random) -> str:
    at = rng.randrange(len(text) + 1)
    sign = rng.choice(
        ("\t", '"', "'", "{", "}", "[", "]", ":", ",", "#", "&", "*", "\0", "\x1b", "\n")
    )
    return text[:at] + sign + text[at:]


def _cut(text: str, rng: random.Random) -> str:
    return text[: rng.randrange(len(text) + 1)]


def _indented(text: str, rng: random.Random) -> str:
    lines = text.splitlines(keepends=True)
    if lines:
        at = rng.randrange(len(lines))
        lines[at] = rng.choice(("  ", "\t", " ")) + lines[at]
    return "".join(lines)


def _deep(text: str, rng: random.Random) -> str:
    depth = rng.choice((5, 50, 5000))
    return _replaced(SCALAR, 1, text, rng, lambda old: "[" * depth + "]" * depth)


def _aliases(text: str, rng: random.Random) -> str:
    lines = ["a0: &a0 [x, x]\n"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)]
    return text + "".join(lines)


CHANGES: tuple[Callable[[str, random.Random], str], ...] = (
    *(_another_number, _another_number, _scaled_number, _scaled_number, _another_scalar),
    *(_another_scalar, _without_a_line, _a_line_twice, _two_lines_swapped, _a_word_misspelt),
    *(_a_sign_more, _cut, _indented, _deep, _aliases),
)

SHORT = [
    *("--set", "simulation.max_steps=20", "--set", "simulation.min_steps=20"),
    *("--set", "simulation.replications=1"),
]


@cache
def _packaged(pattern: str) -> tuple[tuple[str, str], ...]:
    """Return stem and text of packaged files."""
    root = cards.packaged("scenarios").parent
    return tuple((p.stem, p.read_text(encoding="utf-8")) for p in sorted(root.glob(pattern)))


def _scenario(rng: random.Random) -> Mutant:
    _name, text = rng.choice(_packaged("scenarios/*.yaml"))
    few = ["--set", "workload.arrivals.requests=40"] if "requests_per_s:" in text else []
    files = {"m.yaml": changed(text, rng)}
    return Mutant(files, ["validate", "./m.yaml"], ["run", "./m.yaml", *few])


def _accelerator(rng: random.Random) -> Mutant:
    _name, text = rng.choice(_packaged("hardware/*.yaml"))
    scenario = rng.choice(("dsv3-ep8-h200", "qwen3-ep16"))
    words = [scenario, "--set", "deployment.accelerator=./m.yaml"]
    return Mutant({"m.yaml": changed(text, rng)}, ["validate", *words], ["run", *words])


def _fabric(rng: random.Random) -> Mutant:
    _name, text = rng.choice(_packaged("hardware/fabrics/*.yaml"))
    words = ["step3-2a2f", "--set", "deployment.fabric=./m.yaml"]
    return Mutant({"m.yaml": changed(text, rng)}, ["validate", *words], ["run", *words])


def _model(rng: random.Random) -> Mutant:
    _name, text = rng.choice(_packaged("scenarios/models/*.yaml"))
    words = ["qwen3-ep16", "--set", "model=./m.yaml"]
    return Mutant({"m.yaml": changed(text, rng)}, ["validate", *words], ["run", *words])


def _sweep(rng: random.Random) -> Mutant:
    small = [text for name, text in _packaged("scenarios/sweeps/*.yaml") if name != "step3-vs-dsv3"]
    return Mutant({"m.yaml": changed(rng.choice(small), rng)}, ["validate", "./m.yaml"], [])


def _study(rng: random.Random) -> Mutant:
    text = small_study.STUDY.format(model="./model.yaml")
    files = {"m.yaml": changed(text, rng), "model.yaml": tiny.LOADED_MODEL.encode()}
    return Mutant(files, ["validate", "./m.yaml"], [])


def _calibration(rng: random.Random) -> Mutant:
    name, text = rng.choice(_packaged("hardware/calibration/*.csv"))
    lines = text.splitlines(keepends=True)
    # The head, and rows from anywhere: a change then falls on each column and kind of row.
    first = rng.randrange(2, len(lines))
    part = "".join(lines[:2] + lines[first : first + 40])
    files = {f"hardware/calibration/{name}.csv": changed(part, rng)}
    words = ["qwen3-ep16", "--set", f"deployment.accelerator={name}"]
    return Mutant(files, ["validate", *words], ["run", *words])


def _trace(rng: random.Random) -> Mutant:
    name = rng.choice(sorted(RECORDINGS))
    arrivals = f"workload={{arrivals: {{kind: trace, path: {name}}}}}"
    files = {name: changed(RECORDINGS[name], rng)}
    words = ["qwen3-ep16", "--set", arrivals]
    return Mutant(files, ["validate", *words], ["run", *words])


def _table(rng: random.Random) -> Mutant:
    name, text, setting = rng.choice(
        (
            ("r.csv", ROUTING, "routing={kind: measured, path: r.csv, source: test}"),
            (
                "f.csv",
                FACTORS,
                "noise={tasks: [{server: gpu, law: {kind: empirical, path: f.csv, source: test}}]}",
            ),
            (
                "l.csv",
                "prompt_tokens,output_tokens\n" + "500,20\n" * 9,
                "workload.lengths={kind: csv, path: l.csv}",
            ),
        )
    )
    words = ["qwen3-ep16", "--set", setting]
    return Mutant({name: changed(text, rng)}, ["validate", *words], ["run", *words])


def _setting(rng: random.Random) -> Mutant:
    paths = (
        *("deployment.gpus", "memory.utilisation", "workload.arrivals.requests_per_gpu", "name"),
        *("software.glue_us_per_layer.value", "slo.tpot_ms", "simulation.seed", "routing.kind"),
        *("deployment.accelerator", "model", "workload.lengths.prompt.tokens", "precision.kv"),
        *("workload.²", "deployment..gpus", "deployment.gpus.x", "noise.tasks.0.server", ""),
    )
    setting = f"{rng.choice(paths)}={rng.choice((*NUMBERS, *TEXTS))}"
    words = ["qwen3-ep16", "--set", setting.replace("\0", "")]
    return Mutant({}, ["validate", *words], ["run", *words])


KINDS: dict[str, tuple[int, Callable[[random.Random], Mutant]]] = {
    "scenario": (30, _scenario),
    "accelerator": (14, _accelerator),
    "fabric": (3, _fabric),
    "model": (12, _model),
    "sweep": (5, _sweep),
    "study": (3, _study),
    "calibration": (10, _calibration),
    "trace": (12, _trace),
    "table": (6, _table),
    "setting": (5, _setting),
}


def written(one: Mutant, folder: Path) -> None:
    """Write the files of a mutant into a folder."""
    for name, data in one.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
