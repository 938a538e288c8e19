"""Glue: kernels around the measured ones take their closed form, where they run."""

from __future__ import annotations

import numpy as np
import pytest

from sim.deployments import compile_deployment
from sim.deployments.batch import GpuTokens
from sim.deployments.deployment import Deployment
from sim.foundation.nanoseconds import Ns
from sim.inputs import cards, scenario

REQUESTS = 100
MEASURED = (
    "[{accelerators: [h200-sxm], attention: mla, floor_us: {value: 4, source: test},"
    " us_per_request: {value: 0.05, source: test},"
    " us_per_request_and_head: {value: 0.001, source: test}},"
    " {floor_us: {value: 9, source: test}}]"
)


def site(base: str, *settings: str) -> Deployment:
    return compile_deployment(scenario.load(base, ("software=ideal", *settings)))


def rows(base: str, *settings: str) -> dict[str, Ns]:
    """Return the durations of the most frequent layer by stage, 100 requests a GPU."""
    made = site(base, *settings)
    found = made.around_core(GpuTokens(np.full(made.attention_gpus, REQUESTS))).rows
    busiest = made.kinds.index(max(made.kinds, key=made.uses))
    return {stage: ns for (stage, of), ns in found.items() if of == busiest}


def added(base: str, *settings: str, others: tuple[str, ...] = ()) -> dict[str, int]:
    """Return what settings add to each stage, ns."""
    before, after = rows(base, *others), rows(base, *others, *settings)
    return {stage: int((after[stage] - before[stage]).max()) for stage in before}


def more_than_zero(times: dict[str, int]) -> dict[str, int]:
    return {stage: ns for stage, ns in times.items() if ns}


def test_the_measured_rest_of_a_block_stands_before_its_core() -> None:
    found = added("dsv3-ep8-h200", f"software.attention_glue={MEASURED}")
    assert more_than_zero(found) == {"attn0": 4_000 + 50 * REQUESTS + 128 * REQUESTS}


def test_under_afd_it_is_on_the_attention_side() -> None:
    card = "deployment.attention.accelerator=h200-sxm"
    found = added("dsv3-afd", f"software.attention_glue={MEASURED}", others=(card,))
    assert more_than_zero(found) == {"attention": 4_000 + 50 * REQUESTS + 128 * REQUESTS}


@pytest.mark.parametrize("base", ["step3-2a2f", "dsv3-afd"])
def test_another_card_or_kind_of_attention_takes_the_figure_that_fits(base: str) -> None:
    found = added(base, f"software.attention_glue={MEASURED}")
    assert more_than_zero(found) == {"attention": 9_000}


def test_figures_may_be_of_several_kinds_of_attention() -> None:
    card = "deployment.attention.accelerator=h200-sxm"
    both = MEASURED.replace("attention: mla", "attention: [mla, mfa]")
    found = added("step3-2a2f", f"software.attention_glue={both}", others=(card,))
    assert more_than_zero(found) == {"attention": 4_000 + 50 * REQUESTS + 64 * REQUESTS}


@pytest.mark.parametrize("name", cards.names(cards.SOFTWARE))
def test_mfa_has_the_kernels_around_its_core_that_mla_has(name: str) -> None:
    software = cards.software(name)
    for card in ("h800", "h100-sxm", "h200-sxm", "gb200"):
        assert software.glue_of(card, "mfa") == software.glue_of(card, "mla")


def test_a_block_that_no_figure_fits_takes_nothing() -> None:
    glue = MEASURED.split(" {floor")[0].rstrip(",") + "]"
    assert more_than_zero(added("step3-2a2f", f"software.attention_glue={glue}")) == {}


EXCHANGE = (
    "software.exchange={dispatch: {floor_us: {value: 10, source: test},"
    " us_per_token: {value: 0.2, source: test}},"
    " combine: {floor_us: {value: 12, source: test}, us_per_token: {value: 0.3, source: test}}}"
)


def test_an_exchange_beside_another_micro_batch_takes_the_gpu_while_it_sends_and_receives() -> None:
    found = more_than_zero(added("dsv3-ep128", EXCHANGE))
    assert found == {"attn0": 10_000 + 200 * REQUESTS, "attn1": 12_000 + 300 * REQUESTS}


@pytest.mark.parametrize(
    ("base", "how"),
    [
        ("dsv3-ep128", "deployment.overlap=none"),
        ("dsv3-ep128", "deployment.fabric=rdma"),
        ("dsv3-afd", "deployment.fabric=rdma"),
    ],
)
def test_nothing_of_it_is_added_where_nothing_overlaps(base: str, how: str) -> None:
    made = site(base, EXCHANGE, how)
    without = site(base, how)
    requests = GpuTokens(np.full(made.attention_gpus, REQUESTS))
    before, after = without.around_core(requests).rows, made.around_core(requests).rows
    for (stage, of), ns in before.items():
        beside = how.endswith("rdma") and base == "dsv3-ep128" and stage in ("attn0", "attn1")
        has_experts = of < len(made.kinds) and "moe" in str(made.kinds[of].layer.ffn)
        assert (after[stage, of] > ns).all() == (beside and has_experts), (stage, of)


SUM = (
    "software.partial_sum={launch_us: {value: 2, source: test},"
    " hbm_share: {value: 0.5, source: test}}"
)


def test_an_attention_gpu_sums_what_the_instances_send_back() -> None:
    card, hidden = cards.accelerator("h800"), cards.model("step3").hidden
    bytes_moved = (2 + 1) * REQUESTS * hidden * 2
    expected = 2_000 + round(bytes_moved / (card.hbm_bytes_per_s * 0.5) * 1e9)
    assert more_than_zero(added("step3-2a2f", SUM)) == {"attention": expected}


def test_one_result_of_a_token_needs_no_sum() -> None:
    one = ("deployment.ffn.instances=1",)
    assert more_than_zero(added("step3-2a2f", SUM, others=one)) == {}
    assert more_than_zero(added("dsv3-ep128", SUM)) == {}


def test_a_gpu_without_requests_has_no_glue() -> None:
    made = site("step3-2a2f", f"software.attention_glue={MEASURED}", SUM)
    bare = site("step3-2a2f")
    requests = np.zeros(made.attention_gpus, dtype=np.int64)
    requests[0] = REQUESTS
    tokens = GpuTokens(requests)
    with_glue, without = made.around_core(tokens).rows, bare.around_core(tokens).rows
    difference = with_glue["attention", 0] - without["attention", 0]
    assert difference[0] > 0
    assert not difference[1:].any()


@pytest.mark.parametrize("name", cards.names(cards.SOFTWARE))
def test_a_profile_names_cards_that_are_there(name: str) -> None:
    for glue in cards.software(name).attention_glue:
        assert set(glue.accelerators or ()) <= set(cards.names(cards.ACCELERATORS))
