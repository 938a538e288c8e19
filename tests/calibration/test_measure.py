"""Measuring without a GPU: what is timed, the timer's logic, and the files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner

from sim.calibration import measure
from sim.calibration.measure import Case
from sim.calibration.measurement_files import read
from sim.cli import measure as measure_cli
from sim.cli.measure import measure as verb
from sim.experiments import kernel_cases
from sim.foundation.errors import CalibrationError
from sim.kernels import served


class FakeKernel:
    """A kernel whose launches take the times it was given, one after the other."""

    way = "a fake"

    def __init__(self, times: list[float], error: float) -> None:
        self.times = times
        self.launches = 0
        self._error = error

    def error(self) -> float:
        assert self.launches == 0, "checked before it is timed"
        return self._error

    def time_us(self) -> float:
        self.launches += 1
        return self.times[(self.launches - 1) % len(self.times)]


class FakeBackend:
    gpu = "h100_sxm"

    def __init__(self, error: float = 0.001) -> None:
        self.kernels: list[FakeKernel] = []
        self._error = error

    def about(self) -> Mapping[str, str]:
        return {"device": "a fake", "clocks": "none"}

    def supports(self, case: Case) -> bool:
        return case.dtype != "fp8_block"

    def prepare(self, case: Case) -> FakeKernel:
        self.kernels.append(FakeKernel([90.0, 10.0, 12.0, 11.0, 500.0], self._error))
        return self.kernels[-1]


def test_the_median_leaves_out_warm_up_and_stragglers() -> None:
    kernel = FakeKernel([1000.0, 1000.0, 5.0, 7.0, 6.0, 900.0, 6.5], 0.0)
    assert measure.median_us(kernel.time_us, warm_up=2, repeats=5) == 6.5
    assert kernel.launches == 7


@pytest.mark.parametrize("time", [0.0, -1.0, float("nan"), float("inf")])
def test_an_impossible_time_is_refused(time: float) -> None:
    with pytest.raises(CalibrationError, match="the timer returned"):
        measure.median_us(lambda: time)


def test_a_wrong_kernel_is_not_timed() -> None:
    backend = FakeBackend(error=0.5)
    with pytest.raises(CalibrationError, match=r"gemm dense bfloat16 m=5 .* result is off by 0.5"):
        list(measure.measure(backend, kernel_cases.tiny_cases(["gemm"])))
    assert backend.kernels[0].launches == 0


def test_nan_results_are_wrong() -> None:
    with pytest.raises(CalibrationError, match="result is off by nan"):
        list(measure.measure(FakeBackend(float("nan")), kernel_cases.tiny_cases(["gemm"])))


def test_the_files_are_what_calibrate_reads(tmp_path: Path) -> None:
    said: list[str] = []
    backend = FakeBackend()
    cases = kernel_cases.tiny_cases()
    times = list(measure.measure(backend, cases, said.append, warm_up=1, repeats=5))
    left_out = [case for case in cases if case.dtype == "fp8_block"]
    assert [time for _, time in times] == [12.0] * (len(cases) - len(left_out))
    assert any("not on this device" in text for text in said)
    paths = measure.write(measure.texts(backend, times), tmp_path)
    assert {path.name for path in paths} == {form.file for form in measure.FORMS.values()}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in paths)
    for path in paths:
        text = path.read_text()
        assert text.startswith("# device: a fake\n# clocks: none\n")
        for row in read(path):
            assert row.source == "afdsim:measure"
            assert row.latency_us == 12.0
            assert served.is_served(row.op, row.kernel, row.dtype)


def test_what_does_not_fit_is_left_out_and_told() -> None:
    class Full(FakeBackend):
        def prepare(self, case: Case) -> FakeKernel:
            raise MemoryError

    said: list[str] = []
    assert list(measure.measure(Full(), kernel_cases.tiny_cases(["moe"]), said.append)) == []
    assert any("does not fit" in text for text in said)


def test_what_was_timed_before_an_error_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class WrongExperts(FakeBackend):
        def prepare(self, case: Case) -> FakeKernel:
            return FakeKernel([10.0], 0.5 if case.op == "moe" else 0.0)

    monkeypatch.setattr(measure_cli, "_backend", lambda device, gpu, seed, warm: WrongExperts())
    app = Typer()
    app.command()(verb)
    result = CliRunner().invoke(app, ["--tiny", "--out", str(tmp_path)])
    assert isinstance(result.exception, CalibrationError)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "attention_gqa.csv",
        "attention_mla.csv",
        "gemm.csv",
    ]


def test_a_gpu_without_a_card_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = Typer()
    app.command()(verb)
    for gpu, told in (("nvidia_h100_80gb_hbm3", True), ("h100_sxm", False), ("h100-sxm", False)):
        backend = FakeBackend()
        backend.gpu = gpu
        monkeypatch.setattr(measure_cli, "_backend", lambda device, name, seed, warm, b=backend: b)
        result = CliRunner().invoke(app, ["--tiny", "--op", "moe", "--out", str(tmp_path)])
        assert result.exit_code == 0
        assert ("no card is called" in result.stderr) is told


def test_an_unknown_op_is_named() -> None:
    with pytest.raises(CalibrationError, match="unknown op 'gem'; did you mean 'gemm'"):
        measure.known_ops(["gem"])


def test_without_torch_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    app = Typer()
    app.command()(verb)
    result = CliRunner().invoke(app, ["--tiny", "--out", str(tmp_path)])
    assert isinstance(result.exception, CalibrationError)
    assert "pip install 'afdsim[gpu]'" in str(result.exception)


def test_a_scenario_on_other_cards_is_measured_beside_one_on_the_gpu() -> None:
    def listed(*scenarios: str) -> set[str]:
        app = Typer()
        app.command()(verb)
        words = [word for name in scenarios for word in ("--scenario", name)]
        result = CliRunner().invoke(app, ["--gpu", "h200-sxm", "--op", "gemm", "--list", *words])
        assert result.exit_code == 0
        return set(result.stdout.splitlines())

    ours, others = listed("dsv3-ep8-h200"), listed("step3-2a2f")
    assert others - ours
    assert listed("dsv3-ep8-h200", "step3-2a2f") == ours | others


def test_a_shard_that_engines_pad_is_measured_padded() -> None:
    """A tensor core takes an odd shard of a vocabulary several times as long."""
    assert kernel_cases._whole(18992.0) == [18992]
    assert kernel_cases._whole(128815 / 8) == [16064, 16128]
    assert kernel_cases._whole(128815.0) == [128768, 128832]
