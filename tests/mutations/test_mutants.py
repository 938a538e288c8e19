"""Does any file, however it is changed, bring a traceback, a wrong figure, or a machine down?"""

from __future__ import annotations

import json
import resource
import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import Ended, call
from tests.mutations.mutants import SHORT, Mutant, mutant, written

MOST_S = 10
MOST_BYTES = 1 << 30
# Refused, or run to its end: what a wrong file may lead to. 1 is a bug.
CODES = {0, 2, 3, 4}
CHUNK = 25


class TooLongError(BaseException):
    """Not an Exception, so that no verb takes it for a failure of its own."""


@contextmanager
def limited() -> Iterator[None]:
    """End what takes too much CPU time; the clock on the wall goes by the machine's other work."""

    def stop(_signal: int, _frame: object) -> None:
        raise TooLongError

    old = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, MOST_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, old)


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def wrong_with(words: list[str]) -> tuple[str, Ended | None]:
    """Return what is wrong with how a command ends, empty if nothing is, and its end."""
    before = peak_bytes()
    try:
        with limited():
            ended = call(*words)
    except TooLongError:
        return f"more than {MOST_S} s of CPU", None
    except BaseException:
        return traceback.format_exc()[-1500:], None
    if peak_bytes() - before > MOST_BYTES:
        return f"{peak_bytes() - before:,} bytes", None
    said = ended.out + ended.err
    if ended.code not in CODES or "Traceback" in said:
        return f"exit {ended.code}: {ended.err[-1500:]}", None
    if {c for c in said if c < " " and c not in "\n\t"}:
        return f"raw control signs: {said!r}", None
    if ended.code in (3, 4) and "error: " not in ended.err:
        return f"exit {ended.code} without a word", None
    return "", ended


def refuse(text: str) -> float:
    raise AssertionError(f"JSON holds {text}")


def numbers(node: Any, path: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from numbers(value, f"{path}.{key}")
    elif isinstance(node, list):
        for place, value in enumerate(node):
            yield from numbers(value, f"{path}.{place}")
    elif isinstance(node, int | float) and not isinstance(node, bool):
        yield path, node


def wrong_figures(text: str) -> str:
    """Return what is wrong with the figures of a run; those beyond peak end a run with exit 1."""
    try:
        figures = json.loads(text, parse_constant=refuse)
    except AssertionError as error:
        return str(error)
    below = [f"{path} is {number}" for path, number in numbers(figures) if number < 0]
    return ", ".join(below)


def tried(first: int, count: int, folder: Path, runs: int) -> tuple[list[str], int]:
    """Return what is wrong with mutants from `first` on, and how many of them ran."""
    problems, ran = [], 0
    with pytest.MonkeyPatch.context() as patch:
        for number in range(first, first + count):
            place = folder / str(number)
            place.mkdir()
            patch.chdir(place)
            one: Mutant = mutant(number)
            written(one, place)
            words = one.validate
            wrong, ended = wrong_with(words)
            if ended is not None and ended.code == 0 and one.run and ran < runs:
                ran += 1
                words = [*one.run, *SHORT, "--json", "--out", "made"]
                wrong, ended = wrong_with(words)
                if ended is not None and ended.code == 0:
                    wrong = wrong_figures(ended.out)
            if wrong:
                problems.append(f"#{number} {' '.join(words)}: {wrong}")
    return problems, ran


@pytest.fixture(scope="module", autouse=True)
def _compiled(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Let loops be compiled before any time is counted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("compiled"))
        for name in ("qwen3-ep16", "step3-2a2f-jitter", "poisson-example"):
            call("run", name, *SHORT)


@pytest.mark.parametrize("first", range(0, 200, CHUNK))
def test_mutants(first: int, tmp_path: Path) -> None:
    problems, _ran = tried(first, CHUNK, tmp_path, runs=2)
    assert problems == []


@pytest.mark.mutations
@pytest.mark.parametrize("first", range(200, 20_200, 250))
def test_many_mutants(first: int, tmp_path: Path) -> None:
    problems, ran = tried(first, 250, tmp_path, runs=13)
    assert problems == []
    assert ran == 13
