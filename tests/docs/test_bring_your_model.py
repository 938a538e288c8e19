"""The walk of docs/bring-your-model.md works as it stands, from a config to a run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.huggingface_configs import FAMILIES

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/bring-your-model.md").read_text(encoding="utf-8")


def test_the_walk(tmp_path: Path) -> None:
    folder = tmp_path / "DeepSeek-V2-Lite"
    folder.mkdir()
    config = FAMILIES["deepseek-ai/DeepSeek-V2-Lite"].config
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    blocks = re.findall(r"```(sh|python)\n(.*?)```", PAGE, re.DOTALL)
    assert [language for language, _ in blocks] == ["sh", "sh", "python"]
    for language, block in blocks:
        command = ["sh", "-ec", block] if language == "sh" else [sys.executable, "-c", block]
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env=os.environ | {"PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert "kv_lora: 512 # kv_lora_rank" in done.stdout


def test_every_key_on_the_page_is_read() -> None:
    code = "".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "sim/inputs/huggingface").glob("*.py")
    )
    table = PAGE.partition("## What import reads")[2]
    keys = set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", table))
    for key in keys - {"text_config"}:  # found by what is in it, whatever its name
        assert f'{key}"' in code, key
