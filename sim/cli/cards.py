"""The verbs about cards: models, hardware and software profiles."""

from __future__ import annotations

import math
from typing import Any

import typer

from sim.cli.output import plain
from sim.cli.text import AsJson, Table, number, show
from sim.foundation import json_text

models_app = typer.Typer(help="Show the model cards.", rich_markup_mode=None)
hardware_app = typer.Typer(help="Show the hardware cards.", rich_markup_mode=None)

software_app = typer.Typer(help="Show the software profiles.", rich_markup_mode=None)


@models_app.callback(invoke_without_command=True)
def models(context: typer.Context, as_json: AsJson = False) -> None:
    """List the model cards.

    Example: afdsim models show step3
    """
    if context.invoked_subcommand:
        return
    from sim.explain.theory import active_params, total_params
    from sim.inputs import cards

    rows = []
    for name in cards.names(cards.MODELS):
        card = cards.model(name)
        rows.append(
            {
                "model": name,
                "title": card.title,
                "layers": len(card.layer_sequence),
                "hidden": card.hidden,
                "attention": "/".join(dict.fromkeys(a.kind for a in card.attention.values())),
                "total_params": total_params(card),
                "active_params": active_params(card),
            }
        )
    _print_rows(rows, as_json, billions=("total_params", "active_params"))


@models_app.command("show")
def show_model(name: str) -> None:
    """Print a model card as it stands.

    Example: afdsim models show step3
    """
    from sim.foundation.reading import read_text
    from sim.inputs import cards
    from sim.inputs.documents.document import MOST_BYTES

    text = read_text(cards.find(cards.MODELS, name, "model"), MOST_BYTES)
    print(plain(text), end="")


@hardware_app.callback(invoke_without_command=True)
def hardware(context: typer.Context, as_json: AsJson = False) -> None:
    """List the accelerators.

    Example: afdsim hardware show h800
    """
    if context.invoked_subcommand:
        return
    from sim.inputs import cards

    rows = []
    for name in cards.names(cards.ACCELERATORS):
        card = cards.accelerator(name)
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
    _print_rows(rows, as_json)


@hardware_app.command("show")
def show_hardware(name: str, as_json: AsJson = False) -> None:
    """Print an accelerator's figures with their sources, and what is calibrated.

    Example: afdsim hardware show h800
    """
    from sim.inputs import cards
    from sim.kernels import kernel_table as kernels

    card = cards.accelerator(name)
    kernel_table = kernels.load(card, cards.calibration(name))
    if as_json:
        curves = [_curve(curve) for curve in kernel_table.curves]
        data = {
            "card": card.model_dump(mode="json"),
            "calibration": curves,
            "sha256": kernel_table.sha256,
        }
        print(json_text.dumps(json_text.without_nan(data), indent=2, ensure_ascii=False))
        return
    figures = Table(["figure", "value", "source"], f"{name} ({card.vendor}, {card.architecture})")
    for path, figure in _figures(card):
        figures.add_row(path, f"{float(figure):g}", figure.source)
    show(figures)
    if not kernel_table.curves:
        show("not calibrated: every kernel runs at the default efficiency")
        return
    columns = ["op", "kernel", "dtype", "shape", "points", "range", "error", "P90", "source"]
    known = Table(columns, f"calibrated kernels (sha256 {kernel_table.sha256[:12]})")
    for curve in map(_curve, kernel_table.curves):
        ranges = ", ".join(
            f"{axis} {low:g}–{high:g}" for axis, (low, high) in curve["range"].items()
        )
        error = ("–" if curve[name] is None else f"{curve[name]:.1%}" for name in ("mape", "p90"))
        names = (curve[name] for name in ("op", "kernel", "dtype", "key"))
        known.add_row(*names, str(curve["points"]), ranges, *error, curve["source"])
    show(known)
    show(
        "error: mean absolute error and its 90th percentile on held-out points; kernels without a "
        "curve borrow their nearest relative's (extrapolated) or run at the default efficiency "
        "(uncalibrated)"
    )


@software_app.callback(invoke_without_command=True)
def software(context: typer.Context, as_json: AsJson = False) -> None:
    """List the software profiles.

    Example: afdsim software show sglang
    """
    if context.invoked_subcommand:
        return
    from sim.inputs import cards

    rows = []
    for name in cards.names(cards.SOFTWARE):
        card = cards.software(name)
        figures = ("glue_us_per_layer", "host_gap_us_per_step", "overlap_slowdown")
        known = {figure: float(getattr(card, figure)) for figure in figures}
        rows.append({"profile": name} | known | {"description": card.description})
    _print_rows(rows, as_json)


@software_app.command("show")
def show_software(name: str, as_json: AsJson = False) -> None:
    """Print a software profile's figures with their ranges and sources.

    Example: afdsim software show sglang
    """
    from sim.inputs import cards

    card = cards.software(name)
    if as_json:
        data = card.model_dump(mode="json")
        print(json_text.dumps(data, indent=2, ensure_ascii=False))
        return
    shown = Table(["figure", "value", "range", "source"], f"{name}: {card.description}")
    for path, figure in _figures(card):
        ends = ["…" if end is None else f"{end:g}" for end in (figure.low, figure.high)]
        span = "" if ends == ["…", "…"] else "–".join(ends)
        shown.add_row(path, f"{float(figure):g}", span, figure.source)
    show(shown)


def _curve(curve: Any) -> dict[str, Any]:
    names = ("op", "kernel", "dtype", "key", "overhead_us", "e_c", "e_m", "p", "source", "licence")
    known = {name: getattr(curve, name) for name in (*names, "points")}
    errors = {name: _known(getattr(curve, name)) for name in ("mape", "p90")}
    ranges = {axis: (float(nodes[0]), float(nodes[-1])) for axis, nodes in curve.axes}
    return known | errors | {"range": ranges}


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _figures(card: Any, prefix: str = "") -> list[tuple[str, Any]]:
    from sim.inputs.base import Strict
    from sim.inputs.sourced import Sourced

    found: list[tuple[str, Any]] = []
    for name, value in card:
        if isinstance(value, Sourced):
            found.append((prefix + name, value))
        elif isinstance(value, dict | list):
            parts = value.items() if isinstance(value, dict) else enumerate(value)
            found += _figures(((str(key), part) for key, part in parts), f"{prefix}{name}.")
        elif isinstance(value, Strict):
            found += _figures(value, f"{prefix}{name}.")
    return found


def _print_rows(rows: list[dict[str, Any]], as_json: bool, billions: tuple[str, ...] = ()) -> None:
    if as_json:
        print(json_text.dumps(rows, indent=2, ensure_ascii=False))
        return
    shown = Table(list(rows[0]))
    for row in rows:
        shown.add_row(*(f"{v / 1e9:.1f} B" if k in billions else number(v) for k, v in row.items()))
    show(shown)
