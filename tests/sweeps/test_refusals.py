"""Refused points: the same reason with other numbers is one reason."""

from __future__ import annotations

from typing import Any

from sim.sweeps.refusals import refusals


def row(reason: str, status: str = "refused") -> dict[str, Any]:
    return {"status": status, "reason": reason}


def kv(needs: str, card: str = "h800") -> str:
    return f"KV cache needs {needs} GB per EP GPU, {card} has 41.5 GB left: use more GPUs"


def test_reasons_that_differ_in_numbers_are_one_and_shared_numbers_stay() -> None:
    rows = [row(kv("93.2")), row("no NICs"), row(kv("1,204.0")), row("", "ok")]
    assert refusals(rows) == [
        {"status": "refused", "reason": kv("…"), "points": 2},
        {"status": "refused", "reason": "no NICs", "points": 1},
    ]


def test_numbers_of_names_are_no_numbers() -> None:
    names = ("h20", "h800", "h100-sxm", "glm-5.2", "kimi-k2.5", "2A4F")
    assert len(refusals(row(kv("93.2", name)) for name in names)) == len(names)


def test_a_reason_of_one_point_is_told_as_it_is() -> None:
    reason = "takes 3, at 1e-05 of 12 %: choose 4; and 5."
    assert refusals([row(reason)])[0]["reason"] == reason


def test_a_failure_is_no_refusal_and_none_is_nothing() -> None:
    rows = [row("x", "failed"), row("x"), row("x")]
    assert [(each["status"], each["points"]) for each in refusals(rows)] == [
        ("refused", 2),
        ("failed", 1),
    ]
    assert refusals([]) == []
