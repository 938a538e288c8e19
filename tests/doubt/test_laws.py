"""The laws of what is not known: triangles, normal deviations, Latin hypercubes, shared keys."""

from __future__ import annotations

import itertools
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.deployments import compile_deployment
from sim.doubt import sources
from sim.doubt.draws import drawn_shares
from sim.doubt.interval import doubt_of
from sim.doubt.sources import DoubtSource, sources_of
from sim.inputs import cards, scenario
from sim.inputs.hardware import Fabric
from sim.inputs.software import Software


def made(low: float, value: float, high: float, is_range: bool = True) -> DoubtSource:
    return DoubtSource("key", "name", "µs", (low, value, high), is_range, "test", lambda _: id)  # type: ignore[arg-type, return-value]


@given(st.floats(0, 100), st.floats(0, 100), st.floats(0, 100), st.lists(st.floats(1e-6, 1 - 1e-6)))
def test_positions_invert_the_cdf_of_the_triangle(
    low: float, below: float, above: float, shares: list[float]
) -> None:
    source = made(low, low + below, low + below + above)
    positions = source.positions(np.array(shares, dtype=np.float64))
    assert (np.abs(positions) <= 1).all()
    ends = source.ends
    for share, position in zip(shares, positions, strict=True):
        x = source.value_at(float(position))
        assert ends[0] - 1e-9 <= x <= ends[2] + 1e-9
        width = ends[2] - ends[0]
        if min(width, ends[1] - ends[0] or width, ends[2] - ends[1] or width) < 1e-3:
            continue
        # The area of the triangle of height 2 / width left of x.
        if x <= ends[1] and ends[1] > ends[0]:
            area = (x - ends[0]) ** 2 / (width * (ends[1] - ends[0]))
        else:
            area = 1 - (ends[2] - x) ** 2 / (width * (ends[2] - ends[1]))
        assert area == pytest.approx(share, abs=1e-6)


def test_a_range_of_nothing_stays() -> None:
    assert made(5, 5, 5).positions(np.array([0.01, 0.5, 0.99])).tolist() == [0, 0, 0]


@given(st.floats(1e-4, 1 - 1e-4), st.floats(0, 3))
def test_deviations_of_kernels_are_normal_and_their_factors_log_normal(
    share: float, log_sd: float
) -> None:
    factor = float(np.exp(sources.TENTH * log_sd))
    source = made(1 / factor, 1.0, factor, is_range=False)
    (position,) = source.positions(np.array([share]))
    deviations = position * sources.TENTH
    assert NormalDist().cdf(deviations) == pytest.approx(share, abs=1e-9)
    assert source.value_at(position) == pytest.approx(np.exp(deviations * log_sd))
    # What the ends do adds up to what the factor does: (f − 1) = w₊(f₁ − 1) or w₋(f₋₁ − 1).
    low, high = source.weights(np.array([position]))
    told = high * (factor - 1) + low * (1 / factor - 1)
    assert told == pytest.approx(source.value_at(position) - 1, abs=1e-9)


@given(st.floats(-1, 1))
def test_a_figure_is_linear_between_its_ends(position: float) -> None:
    source = made(3, 5, 11)
    low, high = source.weights(np.array([position]))
    assert 5 + low * (3 - 5) + high * (11 - 5) == pytest.approx(source.value_at(position))


@given(st.integers(0, 2**32), st.text(max_size=20), st.integers(1, 200))
def test_each_unknown_has_the_middle_of_every_part_once(seed: int, key: str, draws: int) -> None:
    shares = drawn_shares(seed, key, draws)
    assert np.sort(shares) == pytest.approx((np.arange(draws) + 0.5) / draws)
    assert (shares == drawn_shares(seed, key, draws)).all()


def test_unknowns_are_drawn_apart_and_by_seed() -> None:
    drawn = [drawn_shares(seed, key, 64) for seed in (0, 1) for key in ("one", "two")]
    for one, other in itertools.combinations(drawn, 2):
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.4
        assert (one != other).any()


@pytest.mark.parametrize("name", ["step3-2a2f", "dsv3-ep128"])
def test_one_seed_gives_the_same_bytes(name: str) -> None:
    loaded = scenario.load(name)
    first, again = doubt_of(loaded).spread.factors, doubt_of(loaded).spread.factors
    assert first.tobytes() == again.tobytes()
    other = doubt_of(scenario.load(name, ["simulation.seed=1"])).spread.factors
    assert other.tobytes() != first.tobytes()
    # Both fill the same laws.
    assert np.log(other).std() == pytest.approx(np.log(first).std(), rel=0.25)


def test_every_figure_that_may_have_a_range_has_a_name() -> None:
    """Those of all shipped profiles and fabrics, and of the schemas."""
    fields = {*Software.model_fields, *Fabric.model_fields}
    assert {name.split(".")[0] for name in sources._TITLES} <= fields
    for name in cards.names(cards.SOFTWARE):
        for path, _ in sources.ranges(cards.software(name)):
            words = ".".join(part for part in path if isinstance(part, str))
            assert words in sources._TITLES or path[-1] in sources._BESIDE_TIMES
    for name in cards.names(cards.FABRICS):
        assert all(path[-1] in sources._TITLES for path, _ in sources.ranges(cards.fabric(name)))


def test_sources_have_a_name_a_source_and_ends_in_order() -> None:
    for name in ("step3-2a2f", "dsv3-ep128", "qwen3-fastafd-7a1f", "dsv3-ep8-h200"):
        for each in sources_of(compile_deployment(scenario.load(name))):
            low, stated, high = each.ends
            assert low <= stated <= high
            assert len(each.source) >= 3
            assert each.name
            rounded = float(f"{stated:.3g}")
            assert each.told(0) in ("0 % faster", f"{rounded:,g} {each.unit}".strip())


def test_kernels_are_one_unknown_for_every_deployment_on_a_card() -> None:
    def keys(name: str) -> set[str]:
        found = sources_of(compile_deployment(scenario.load(name)))
        return {each.key for each in found if not each.is_range}

    shapes = "step3-2a2f", "step3-4a2f-8k", "step3-3a2f-bf16"
    gemm = [{key for key in keys(name) if "gemm" in key and "fp8" in key} for name in shapes]
    assert gemm[0] == gemm[1] == gemm[2]


@pytest.mark.parametrize("fabric", cards.names(cards.FABRICS))
def test_no_network_is_taken_as_known(fabric: str) -> None:
    """AFD's transfers have no kernel table: what a fabric states is all that is known of them."""
    stated = {path[-1] for path, _ in sources.ranges(cards.fabric(fabric))}
    assert stated == {"latency_us", "goodput"}
