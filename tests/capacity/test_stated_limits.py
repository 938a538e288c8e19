"""What an engine says of itself (KV in tokens or blocks, requests) acts wherever memory does."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.decoding.run import simulate
from sim.deployments import compile_deployment
from sim.deployments.deployment import Deployment
from sim.experiments.largest_batch import max_batch_under_slo
from sim.explain import explanation
from sim.explain.balance import EpBalance
from sim.foundation.errors import InfeasibleError
from sim.inputs import scenario
from sim.metrics import summary
from sim.steady.largest_load import fullest, most_fitting
from sim.study.best_shapes import entry
from tests import tiny

BASES = ("step3-2a2f", "dsv3-ep128")
# Requests of 100 + 40 tokens are three blocks of 64; two layers with 8 KV heads of 128 in BF16.
WHOLE_TOKENS = 3 * 64
TOKEN_BYTES = 2 * 2 * 8 * 128 * 2
BF16_KV = "precision.kv=bf16"


def site_of(model: Path, base: str, *settings: str) -> Deployment:
    return compile_deployment(tiny.load(model, base, BF16_KV, *settings))


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("stated", ["kv_tokens=100032", "kv_blocks=1563"])
def test_stated_kv_takes_the_place_of_what_the_shares_leave(
    loaded_model: Path, base: str, stated: str
) -> None:
    # Whatever the shares leave: here less than the KV stated.
    site = site_of(loaded_model, base, f"memory.{stated}", "memory.utilisation=0.2")
    assert site.kv_memory().kv_capacity_bytes() == 100032 * TOKEN_BYTES
    assert site.expected.claimed_bytes() == WHOLE_TOKENS * TOKEN_BYTES
    assert most_fitting(site) == 100032 // WHOLE_TOKENS


@pytest.mark.parametrize("base", BASES)
def test_a_load_fits_into_exactly_the_kv_stated(loaded_model: Path, base: str) -> None:
    # 24 requests on 4 GPUs.
    needed = 6 * WHOLE_TOKENS
    figures = summary.summary(
        simulate(tiny.load(loaded_model, base, BF16_KV, f"memory.kv_tokens={needed}"))
    )
    assert figures["requests_in_flight"] == 24
    assert 100 / 192 < figures["kv_occupancy"] < 1
    ample = summary.summary(
        simulate(tiny.load(loaded_model, base, BF16_KV, f"memory.kv_tokens={4 * needed}"))
    )
    assert figures["kv_occupancy"] == 4 * ample["kv_occupancy"]
    assert figures["tgs"] == ample["tgs"]
    with pytest.raises(InfeasibleError, match=r"the scenario states .* batch to 5 requests"):
        site_of(loaded_model, base, f"memory.kv_tokens={needed - 1}")
    with pytest.raises(InfeasibleError, match=r"no request fits; raise memory.kv_tokens"):
        site_of(loaded_model, base, f"memory.kv_tokens={WHOLE_TOKENS - 1}")


@pytest.mark.parametrize("base", BASES)
def test_as_many_requests_run_as_the_engine_says(loaded_model: Path, base: str) -> None:
    assert site_of(loaded_model, base, "memory.max_running_requests=6").expected.in_flight() == 24
    with pytest.raises(InfeasibleError, match=r"max_running_requests is 5: lower the batch to 5"):
        site_of(loaded_model, base, "memory.max_running_requests=5")


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("engine", ["event", "recurrence"])
@pytest.mark.parametrize(
    ("limit", "most"),
    [("max_running_requests=7", 7), (f"kv_tokens={9 * WHOLE_TOKENS}", 9), ("kv_blocks=29", 9)],
)
def test_further_requests_of_an_open_loop_wait(
    loaded_model: Path, base: str, engine: str, limit: str, most: int
) -> None:
    # All come within a millisecond, which is less than they take.
    arrivals = "workload.arrivals={kind: poisson, requests_per_s: 400000, requests: 150}"
    settings = (BF16_KV, arrivals, f"memory.{limit}", f"simulation.engine={engine}")
    run = simulate(tiny.load(loaded_model, base, *settings))
    assert run.steps["tokens"].max() <= 4 * most
    in_flight = summary.summary(run)["requests_in_flight"]
    free = summary.summary(simulate(tiny.load(loaded_model, base, BF16_KV, arrivals)))
    assert in_flight <= 4 * most < free["requests_in_flight"]
    assert (run.requests["finished"] == 1).all()


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("engine", ["recurrence", "bound"])
@pytest.mark.parametrize(
    ("limit", "most", "named"),
    [("max_running_requests=12", 12, "requests"), (f"kv_tokens={13 * WHOLE_TOKENS}", 13, "KV")],
)
def test_the_largest_batch_ends_at_the_limit(
    loaded_model: Path, base: str, engine: str, limit: str, most: int, named: str
) -> None:
    settings = (BF16_KV, f"memory.{limit}", "slo.tpot_ms=1000", f"simulation.engine={engine}")
    aimed = tiny.load(loaded_model, base, *settings)
    found = max_batch_under_slo(aimed)
    assert found["batch"] * aimed.deployment.micro_batches == most
    assert found["requests_in_flight"] == 4 * most
    site = compile_deployment(aimed.with_batch(1))
    assert fullest(site, 1e6).requests == 4 * most
    champion = entry(aimed, {}, {}, priced=False)
    assert champion["limit"] == named


@pytest.mark.parametrize(
    ("limit", "most"), [("max_running_requests=140", 140), (f"kv_blocks={150 * 79 + 78}", 150)]
)
def test_explain_says_how_many_run(limit: str, most: int) -> None:
    # 4,989 + 8 tokens at most are 79 blocks of 64.
    lengths = "workload.lengths={kind: drawn, prompt: {kind: fixed, tokens: 4989}, "
    held = scenario.load(
        "dsv3-ep128",
        [f"memory.{limit}", f"{lengths}output: {{kind: fixed, tokens: 8}}}}"],
    )
    found = explanation.explain_scenario(held).balance
    assert isinstance(found, EpBalance)
    assert found.most_requests == most


def test_an_open_loop_is_sized_for_no_more_than_may_run(loaded_model: Path) -> None:
    arrivals = "workload.arrivals={kind: poisson, requests_per_s: 400000, requests: 150}"
    site = site_of(loaded_model, "dsv3-ep128", arrivals, "memory.max_running_requests=7")
    assert site.expected.requests() == 4 * 7


def test_kv_that_exceeds_the_memory_is_refused_and_below_it_believed(loaded_model: Path) -> None:
    memory = site_of(loaded_model, "dsv3-ep128").kv_memory()
    beside = memory.accelerator.hbm_bytes - memory.weights_bytes
    fits = int(beside / TOKEN_BYTES)
    site = site_of(loaded_model, "dsv3-ep128", f"memory.kv_tokens={fits}")
    assert site.kv_memory().kv_capacity_bytes() == fits * TOKEN_BYTES
    with pytest.raises(InfeasibleError, match=r"states .* GB of KV .* no engine prints that"):
        site_of(loaded_model, "dsv3-ep128", f"memory.kv_tokens={fits + 1}")


def test_stated_tokens_are_those_of_layers_that_see_the_whole_context() -> None:
    # MiniMax-M1: 10 of 80 layers see all, 70 have a constant state.
    closed = "workload.arrivals={kind: closed, concurrency: 16}"
    settings = ["model=minimax-m1", "deployment.ffn.instances=8", "precision.kv=card", closed]
    ours, theirs = (
        compile_deployment(scenario.load("step3-2a2f", [*settings, *stated]))
        for stated in ([], ["memory.kv_tokens=500000"])
    )
    per_token = ours.layout.bytes_per_token[None]
    assert theirs.kv_memory().kv_capacity_bytes() == 500000 * per_token
    assert theirs.layout.state_bytes > 0
    held = theirs.layout.request_bytes(640)
    assert held == 640 * per_token
    assert ours.layout.request_bytes(640) == held + ours.layout.state_bytes
    assert theirs.layout.moved_bytes(640) == ours.layout.moved_bytes(640)


def test_tokens_of_a_model_without_such_layers_count_nothing(tiny_model: Path) -> None:
    with pytest.raises(InfeasibleError, match="no layer that sees the whole context"):
        site_of(tiny_model, "dsv3-ep128", "memory.kv_tokens=5000")
    assert site_of(tiny_model, "dsv3-ep128", "memory.max_running_requests=6").lanes == 8
