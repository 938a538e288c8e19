"""Script: a launch file for bash, the same on all nodes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sim.study.launch.parts import EngineCommand, Option, comment, commented

_ASKED = {
    "MODEL": "path or Hugging Face name of the checkpoint",
    "ROLE": "attention or ffn",
    "NODE_RANK": "number of this node{side}, from 0",
    "HEAD": "address of node 0{side}",
    "AFD_HOST": "address of node 0 of the FFN side",
}


def script(
    head: Iterable[str], cannot: Iterable[str], roles: Mapping[str, EngineCommand], nodes: int
) -> str:
    """Return the text of a script: a command, or one for each value of $ROLE.

    `nodes` is the most of a role. The script asks for its variables and ends without one.
    """
    asked = ["MODEL", *(["ROLE"] if len(roles) > 1 else [])]
    asked += ["NODE_RANK", "HEAD"] if nodes > 1 else []
    asked += ["AFD_HOST"] if "ffn" in roles else []
    lines = ["#!/usr/bin/env bash", *map(comment, head)]
    lines += ["#", comment("Not in this file:"), *(comment(f"- {each}") for each in cannot)]
    lines += ["set -euo pipefail"]
    side = " of this side" if len(roles) > 1 else ""
    lines += [f': "${{{name}:?{_ASKED[name].format(side=side)}}}"' for name in asked]
    if len(roles) == 1:
        (command,) = roles.values()
        lines += ["", *_set_up(command, "")]
    else:
        lines += ["", 'case "$ROLE" in']
        for role, command in roles.items():
            lines += [f"{role})", *_set_up(command, "  "), "  ;;"]
        lines += ['*) echo "ROLE: attention or ffn, not $ROLE" >&2; exit 2 ;;', "esac"]
    program = " ".join(next(iter(roles.values())).program)
    return "\n".join([*lines, f'exec {program} "${{options[@]}}"', ""])


def _set_up(command: EngineCommand, indent: str) -> list[str]:
    exports = [(_assigned(each), each.source) for each in command.exports]
    lines = commented(exports, f"{indent}export ")
    options = [(each.in_shell(), each.source) for each in command.options]
    lines += [f"{indent}options=(", *commented(options, f"{indent}  "), f"{indent})"]
    if command.later:
        lines += [f'{indent}if [ "$NODE_RANK" != 0 ]; then', f"{indent}  options+=("]
        later = [(each.in_shell(), each.source) for each in command.later]
        lines += [*commented(later, f"{indent}    "), f"{indent}  )", f"{indent}fi"]
    return lines


def _assigned(export: Option) -> str:
    return export.in_shell().replace(" ", "=", 1)
