"""The verbs about hardware cards: list them, show one in short, an op's curves, or everything."""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sim.cli.inputs.cards import every, figures, print_rows
from sim.cli.text import AsJson, Table, number, show
from sim.foundation import json_text
from sim.foundation.errors import did_you_mean

if TYPE_CHECKING:
    from sim.inputs.hardware import Accelerator
    from sim.kernels.curve import Curve

hardware_app = typer.Typer(help="Show the hardware cards.", rich_markup_mode=None)


@hardware_app.callback(invoke_without_command=True)
def hardware(context: typer.Context, as_json: AsJson = False) -> None:
    """List the accelerators.

    Example: afdsim hardware show h800
    """
    if context.invoked_subcommand:
        return
    from sim.inputs import cards

    rows = []
    for name, card in every(cards.ACCELERATORS, cards.accelerator):
        nic = card.node.nic_bytes_per_s_per_gpu()
        rows.append(
            {
                "accelerator": name,
                "calibrated": cards.calibration(name) is not None,
                "usd_per_hour": card.usd_per_hour,
                "bf16_tflops": card.peak_flops_per_s("bf16") / 1e12,
                "fp8_tflops": card.flops_per_s["fp8"] / 1e12 if "fp8" in card.flops_per_s else None,
                "hbm_tb_per_s": card.hbm_bytes_per_s / 1e12,
                "hbm_gb": card.hbm_bytes / 1e9,
                "scale_up_gb_per_s": card.node.scale_up_bytes_per_s / 1e9,
                "domain_gpus": card.node.scale_up_domain_gpus,
                "nic_gb_per_s_per_gpu": None if nic is None else nic / 1e9,
            }
        )
    print_rows(rows, as_json)


@hardware_app.command("show")
def show_hardware(
    name: str,
    op: Annotated[
        list[str] | None,
        typer.Option("--op", metavar="OP", help="Show the curves of a kernel; may be repeated."),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Show every figure with its source, and every curve.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print an accelerator in short: peaks, memory, links, price, and what is calibrated.

    Example: afdsim hardware show h800 --op gemm
    """
    from sim.inputs import cards
    from sim.kernels import kernel_table as kernels

    card = cards.accelerator(name)
    table = kernels.load(card, cards.calibration(name))
    known = dict.fromkeys(curve.op for curve in table.curves)
    for asked in op or ():
        if asked not in known:
            problem = f"{name} has no curve of {asked!r}; {did_you_mean(asked, known)}"
            raise typer.BadParameter(problem, param_hint="--op")
    curves = [curve for curve in table.curves if op is None or curve.op in op]
    if as_json:
        plain = {"card": card.model_dump(mode="json"), "calibration": [*map(_plain, curves)]}
        data = json_text.without_nan(plain | {"sha256": table.sha256})
        print(json_text.dumps(data, indent=2, ensure_ascii=False))
        return
    if everything:
        shown = Table(["figure", "value", "source"], _title(card))
        for path, figure in figures(card):
            shown.add_row(path, f"{float(figure):g}", figure.source)
        show(shown)
    elif op is None:
        shown = Table(["figure", "value"], _title(card))
        for row in _short(card):
            shown.add_row(*row)
        show(shown)
    if not curves:
        show("not calibrated: every kernel runs at the default efficiency")
    elif everything or op is not None:
        show(_every_curve(curves, table.sha256), _ERROR, _WITHOUT)
    else:
        show(_by_op(curves, table.sha256), _ERRORS, _WITHOUT)
        show(f"--op {curves[0].op} shows its curves, --all all of them and every source")


_ERROR = "error: mean absolute error and its 90th percentile on held-out points"
_ERRORS = (
    "error: median over the curves of their mean absolute error on held-out points; worst P90: the "
    "largest 90th percentile of that error"
)
_WITHOUT = (
    "kernels without a curve borrow their nearest relative's (extrapolated) or run at the default "
    "efficiency (uncalibrated)"
)


def _title(card: Accelerator) -> str:
    return f"{card.name} ({card.vendor}, {card.architecture})"


def _short(card: Accelerator) -> Iterator[tuple[str, str]]:
    """Yield what people ask of a card, in units of data sheets."""
    node, nic = card.node, card.node.nic_bytes_per_s_per_gpu()
    for dtype, peak in card.flops_per_s.items():
        yield f"{dtype} dense", f"{peak / 1e12:,.4g} TFLOP/s"
    yield "memory", f"{card.hbm_bytes / 1e9:,.4g} GB at {card.hbm_bytes_per_s / 1e12:,.4g} TB/s"
    link = f"{node.scale_up_bytes_per_s / 1e9:,.4g} GB/s each way"
    yield "scale-up link", f"{link}, joins {node.scale_up_domain_gpus} GPUs"
    yield "NICs", "none" if nic is None else f"{nic / 1e9:,.4g} GB/s each way per GPU"
    yield "server", f"{node.gpus} GPUs"
    price = card.usd_per_hour
    without = f"none on the card; --price {card.name}=USD states one"
    yield "price", without if price is None else f"{float(price):g} USD/h ({price.source})"


def _by_op(curves: list[Curve], sha256: str) -> Table:
    """Return a row for each op: how many curves, over which range, how far off."""
    columns = ["op", "curves", "kernels", "formats", "range", "points", "error", "worst P90"]
    shown = Table(columns, f"calibrated kernels (sha256 {sha256[:12]})")
    for op in dict.fromkeys(curve.op for curve in curves):
        of = [curve for curve in curves if curve.op == op]
        errors = [curve.mape for curve in of if not math.isnan(curve.mape)]
        worst = max((curve.p90 for curve in of if not math.isnan(curve.p90)), default=None)
        shown.add_row(
            op,
            str(len(of)),
            ", ".join(dict.fromkeys(curve.kernel.partition("/")[0] for curve in of)),
            ", ".join(dict.fromkeys(curve.dtype for curve in of)),
            _ranges(_extent(of)),
            f"{sum(curve.points for curve in of):,}",
            _percent(median(errors) if errors else None),
            _percent(worst),
        )
    return shown


def _every_curve(curves: list[Curve], sha256: str) -> Table:
    columns = ["op", "kernel", "dtype", "shape", "points", "range", "error", "P90", "source"]
    shown = Table(columns, f"calibrated kernels (sha256 {sha256[:12]})")
    for curve in map(_plain, curves):
        errors = (_percent(curve[name]) for name in ("mape", "p90"))
        names = (curve[name] for name in ("op", "kernel", "dtype", "key"))
        shown.add_row(
            *names, str(curve["points"]), _ranges(curve["range"]), *errors, curve["source"]
        )
    return shown


def _extent(curves: list[Curve]) -> dict[str, tuple[float, float]]:
    """Return the least and largest value of each axis over curves."""
    found: dict[str, tuple[float, float]] = {}
    for curve in curves:
        for axis, (low, high) in _plain(curve)["range"].items():
            least, most = found.get(axis, (low, high))
            found[axis] = min(low, least), max(high, most)
    return found


def _ranges(ranges: dict[str, tuple[float, float]]) -> str:
    return ", ".join(
        f"{axis} {number(low)}" + (f"–{number(high)}" if high != low else "")
        for axis, (low, high) in ranges.items()
    )


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def _plain(curve: Curve) -> dict[str, Any]:
    names = ("op", "kernel", "dtype", "key", "overhead_us", "e_c", "e_m", "p", "source", "licence")
    known = {name: getattr(curve, name) for name in (*names, "points")}
    errors = {name: _known(getattr(curve, name)) for name in ("mape", "p90")}
    ranges = {axis: (float(nodes[0]), float(nodes[-1])) for axis, nodes in curve.axes}
    return known | errors | {"range": ranges}


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
