"""The host: what passes between steps by the number of ranks, and TPOT with and without it."""

from __future__ import annotations

from typing import Any

import pytest

from sim.decoding.run import simulate
from sim.deployments.host import host_us
from sim.inputs import scenario
from sim.inputs.scenario import Scenario
from sim.metrics.steady_summary import steady_summary
from sim.metrics.summary import summary
from sim.steady.state import steady_state

LAW = (
    "software.host_gap_us_per_step={value: 700, source: test}",
    "software.host_us_per_further_rank={value: 30, source: test}",
    "software.host_us_across_servers={value: 500, source: test}",
)
NONE = ("software.host_gap_us_per_step={value: 0, source: test}",)
BASES = ("dsv3-ep128", "dsv3-ep8-h200", "qwen3-ep16", "step3-2a2f", "dsv3-afd-gb200")


def load(base: str, *settings: str) -> Scenario:
    return scenario.load(base, (*settings, "simulation.max_steps=24"))


@pytest.mark.parametrize(
    ("base", "expected_us"),
    [
        ("dsv3-ep8-h200", 700 + 7 * 30),  # one server
        ("dsv3-ep128", 700 + 127 * 30 + 500),
        ("step3-2a2f", 700 + 15 * 30 + 500),  # attention ranks alone
    ],
)
def test_a_gap_grows_by_the_further_ranks_and_across_servers(base: str, expected_us: int) -> None:
    assert host_us(load(base, *LAW)) == expected_us


def test_servers_are_those_of_the_card() -> None:
    """GB200 has four GPUs a server: 8 ranks lie on two."""
    eight = ("deployment.accelerator=gb200", "deployment.gpus=8")
    assert host_us(load("dsv3-ep8-h200", *LAW, *eight)) == 700 + 7 * 30 + 500


def test_without_a_law_the_gap_stands_alone() -> None:
    assert host_us(load("dsv3-ep128", LAW[0])) == 700


def figures(engine: str, *settings: str) -> dict[str, Any]:
    asked = load(settings[0], *settings[1:])
    if engine == "bound":
        return steady_summary(steady_state(asked))
    return summary(simulate(asked))


@pytest.mark.parametrize("engine", ["bound", "recurrence"])
@pytest.mark.parametrize("base", ["dsv3-ep8-h200", "dsv3-ep128"])
def test_device_tpot_of_ep_is_what_the_step_takes_without_a_host(base: str, engine: str) -> None:
    """The host and the GPUs of EP take turns, with two micro-batches as with one."""
    with_host, without = figures(engine, base, *LAW), figures(engine, base, *NONE)
    assert with_host["tpot_device_ms"] == pytest.approx(without["tpot_ms_mean"], rel=1e-5)
    assert without["tpot_device_ms"] == without["tpot_ms_mean"]
    host_ms = host_us(load(base, *LAW)) / 1e3
    assert with_host["tpot_ms_mean"] - with_host["tpot_device_ms"] == pytest.approx(host_ms, 1e-4)


def test_with_drafts_a_token_bears_its_part_of_the_host() -> None:
    seen = figures("recurrence", "dsv3-ep72-h100-mtp", *LAW)
    per_token_ms = host_us(load("dsv3-ep72-h100-mtp", *LAW)) / 1e3 / seen["tokens_per_step"]
    assert seen["tpot_ms_mean"] - seen["tpot_device_ms"] == pytest.approx(per_token_ms, rel=0.05)


def test_the_noise_of_the_host_is_no_device_time() -> None:
    tail = "noise={host: {kind: exponential, mean_us: {value: 400, source: test}}}"
    noisy = figures("recurrence", "dsv3-ep8-h200", *LAW, tail)
    calm = figures("recurrence", "dsv3-ep8-h200", *NONE)
    assert noisy["tpot_device_ms"] == pytest.approx(calm["tpot_ms_mean"], rel=0.01)


@pytest.mark.parametrize("base", BASES)
def test_both_engines_wait_alike(base: str) -> None:
    event, recurrence = (
        simulate(load(base, *LAW, f"simulation.engine={engine}")).steps
        for engine in ("event", "recurrence")
    )
    assert event["end_ns"].tolist() == recurrence["end_ns"].tolist()
