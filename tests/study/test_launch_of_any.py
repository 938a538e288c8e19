"""Launch files of scenarios that no one wrote: options that the engine knows, or a reason."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import assume, given, settings

from sim.foundation.errors import InfeasibleError
from sim.inputs import scenario
from sim.study.launch.launch_file import ENGINES, launch_file
from tests.strategies.scenarios import settings_of_runs
from tests.study.launched import KNOWN, check, known_to, read, worker_of


@pytest.fixture(scope="module", autouse=True)
def a_folder_for_traces(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("launched"))
    yield
    os.chdir(before)


@settings(max_examples=60, deadline=None)
@given(settings_of_runs())
def test_an_engine_knows_what_is_written(drawn: tuple[str, list[str], float | None]) -> None:
    name, assignments, _ = drawn
    loaded = scenario.load(name, assignments)
    for engine in ENGINES:
        if (loaded.deployment.kind == "afd") != (engine == "afd-plugin"):
            continue
        try:
            file = launch_file(loaded, engine)
        except InfeasibleError:
            # TensorRT-LLM is told a share of the memory that weights leave, if they leave any.
            assume(engine != "dynamo")
            raise
        if engine == "dynamo":
            main = worker_of(file.text)
            known = known_to(main["engine"]) | KNOWN["dynamo"]["options"]
            options = read(main["args"])[1]
            for option, value in options.items():
                check(option, value, known | KNOWN["sglang"]["before"])
        else:
            # What the shell works out at launch is checked by running scripts.
            for option, value in re.findall(r"^ +(--\S+)(?: (.*?))? *  # .", file.text, re.M):
                if not value.startswith('"$'):
                    words = shlex.split(value)
                    check(option, words[0] if words else None, known_to(engine))
