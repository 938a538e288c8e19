"""Propagation: what the ends of sources add up to, against deployments timed anew."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

from sim.deployments import compile_deployment
from sim.deployments.deployment import Deployment
from sim.doubt.draws import drawn_shares
from sim.doubt.sources import DoubtSource, sources_of
from sim.doubt.spread import SteadyLoad, spread, spreads
from sim.inputs import scenario
from sim.steady.load_times import LoadTimes, shares
from sim.steady.state import SteadyState, under_load

AFD, EP_TWO_BATCH, EP_MTP, ONE_KERNEL = (
    *("step3-2a2f", "dsv3-ep128"),
    *("dsv3-ep72-h100-mtp", "qwen3-fastafd-7a1f"),
)
SCENARIOS = (AFD, EP_TWO_BATCH, EP_MTP, ONE_KERNEL, "dsv3-afd-gb200", "qwen3-ep16")
DRAWS = 16


def at(name: str) -> SteadyLoad:
    site = compile_deployment(scenario.load(name))
    return SteadyLoad(site, round(site.expected.requests()))


def step_ns(load: SteadyLoad, moved: Iterable[tuple[DoubtSource, float]]) -> float:
    """Return the step in the static order of `load`, with sources at positions, all timed anew."""
    moved = list(moved)

    def changed(site: Deployment) -> Deployment:
        for source, position in moved:
            site = source.changed(position)(site)
        return site

    times = LoadTimes()
    times.look_up(load.deployment, shares(*load))
    other = changed(load.deployment)
    return float(SteadyState.under(times.changed(changed), other, load.requests).step_ns)


@pytest.mark.parametrize("name", SCENARIOS)
def test_one_source_at_an_end_is_exact(name: str) -> None:
    load = at(name)
    stated_ns = float(under_load(*load).step_ns)
    for each in spread(load, 0).alone:
        for position, factor in zip(each.positions, each.factors, strict=True):
            if abs(position) == pytest.approx(1):
                whole = float(np.rint(position))
                assert step_ns(load, [(each.source, whole)]) / stated_ns == factor


# What one slow-down adds to what another slowed is left out, and so is what the peak cuts off.
@pytest.mark.parametrize("name", SCENARIOS)
def test_all_sources_together_are_as_deployments_timed_anew(name: str) -> None:
    load = at(name)
    sources = sources_of(load.deployment)
    drawn = [source.positions(drawn_shares(0, source.key, DRAWS)) for source in sources]
    factors = spread(load, 0, DRAWS).factors
    stated_ns = float(under_load(*load).step_ns)
    exact = [
        step_ns(
            load, [(source, float(each[n])) for source, each in zip(sources, drawn, strict=True)]
        )
        for n in range(DRAWS)
    ]
    errors = factors * stated_ns / exact - 1
    assert np.abs(errors).max() < 0.05
    assert np.sqrt((errors**2).mean()) < 0.2 * np.log(factors).std()


def test_loads_that_share_look_ups_are_as_each_alone() -> None:
    counts = [load.requests for load in (at(AFD), at(EP_TWO_BATCH))]
    loads = [at(AFD), at(EP_TWO_BATCH)]
    loads += [each._replace(requests=n // 2) for each, n in zip(loads, counts, strict=True)]
    loads.append(at("step3-2a2f-hopper"))
    together = spreads(loads, 3, DRAWS)
    for load, found in zip(loads, together, strict=True):
        assert found.alone == ()
        assert (found.factors == spread(load, 3, DRAWS).factors).all()


def test_what_takes_no_time_is_in_no_doubt() -> None:
    def moves(free: tuple[str, ...]) -> list[bool]:
        alone = spread(at("qwen3-coder-ep8-h200"), 0, free=free).alone
        return [each.moves for each in alone if each.source.name == "host gap of a step"]

    assert moves(()) == [True]
    assert moves(("host",)) == [False]


@pytest.mark.parametrize("name", ["qwen3-ep16", "dsv2-lite-afd"])
def test_sms_that_communication_may_take_slow_what_runs_beside_it(name: str) -> None:
    """vLLM takes none as stated, so that no stage was slowed before."""
    (sms,) = (each for each in spread(at(name), 0).alone if each.source.name.startswith("SMs that"))
    assert sms.factors[0] == 1
    assert (np.diff(sms.factors) >= 0).all()


def test_hidden_stages_stay_hidden() -> None:
    """AFD's experts may be much faster: attention sets the pace, and nothing is gained."""
    (experts,) = (
        each for each in spread(at(AFD), 0).alone if each.source.name.startswith("experts")
    )
    assert (experts.factors[experts.positions < 0] == 1).all()
    assert experts.factors[-1] > 1
