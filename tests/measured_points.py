"""A measured operating point, and files of such rows."""

from __future__ import annotations

from pathlib import Path

ROW = {
    "id": "one",
    "model": "DeepSeek-V3",
    "hardware_attention": "h200",
    "gpus_attention": "8",
    "deployment": "ep",
    "expert_parallel": "ep8",
    "requests_per_gpu": "16",
    "context_tokens_mean": "4096",
    "measured_tpot_ms": "30",
    "clock": "wall",
}


def written(path: Path, *rows: dict[str, str]) -> Path:
    lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
