"""Files and settings with the mistakes of an editor or a hurried hand."""

from __future__ import annotations

import re

from hypothesis import strategies as st

_ODD_SCALARS = (
    *("-1", "0", "1", "1e6", "1e999", "9" * 400, "0x1F", "0o17", "1_000", ".nan", "-.inf"),
    *("true", "null", "~", "''", "[]", "{}", "[1, 2]", "{a: 1}", "{a: 1, a: 2}", "2001-01-01"),
    *("2001-02-30", "!!binary aGk=", "!!binary é", "!!set {a}", "!!float x", "!!int ''"),
    *("!!bool x", "!!pairs [a]", "*a", "&a b", "&a [*a]", "'unclosed", "a: b: c", "<<", "? x"),
    *("|", ">", "%", "@", "\t", "\x00"),
)


@st.composite
def mangled(draw: st.DrawFn, text: str) -> str:
    """Draw one to four mistakes of an editor or a hurried hand in `text`."""
    for _ in range(draw(st.integers(1, 4))):
        lines = text.splitlines()
        if not lines:
            return text
        at = draw(st.integers(0, len(lines) - 1))
        match draw(
            st.sampled_from(("delete", "double", "move", "scalar", "insert", "cut", "dedent"))
        ):
            case "delete":
                del lines[at]
            case "double":
                lines.insert(at, lines[at])
            case "move":
                lines.insert(draw(st.integers(0, len(lines) - 1)), lines.pop(at))
            case "scalar":
                lines[at] = _with_odd_value(draw, lines[at])
            case "insert":
                column = draw(st.integers(0, len(lines[at])))
                noise = draw(st.text(st.characters(codec="utf-8"), min_size=1, max_size=4))
                lines[at] = lines[at][:column] + noise + lines[at][column:]
            case "cut":
                lines[at] = lines[at][: draw(st.integers(0, len(lines[at])))]
            case "dedent":
                lines[at] = lines[at].lstrip() if draw(st.booleans()) else f"  {lines[at]}"
        text = "\n".join(lines) + "\n"
    return text


def _with_odd_value(draw: st.DrawFn, line: str) -> str:
    """Replace one of the values of a line."""
    values = list(re.finditer(r"(?<=: )[^,{}\[\]]+", line))
    odd = draw(st.sampled_from(_ODD_SCALARS))
    if not values:
        return f"{line} {odd}"
    value = draw(st.sampled_from(values))
    return line[: value.start()] + odd + line[value.end() :]


@st.composite
def assignments(draw: st.DrawFn) -> str:
    """Draw `--set` texts, nearly right or not at all."""
    if draw(st.integers(0, 3)) == 0:
        return draw(st.text(max_size=20))
    words = ("model", "deployment", "attention", "instances", "workload", "lengths", "prompt")
    more = ("kind", "tokens", "slo", "tpot_ms", "0", "nonsense", "", "software", "value")
    path = draw(st.lists(st.sampled_from(words + more), min_size=1, max_size=4))
    return f"{'.'.join(path)}={draw(st.sampled_from(_ODD_SCALARS))}"


@st.composite
def csv_texts(draw: st.DrawFn) -> str:
    """Draw a table of lengths with some cells that are none."""
    cell = st.one_of(
        st.sampled_from(
            [
                "1",
                "20",
                " 7 ",
                "0",
                "-1",
                "1.5",
                "1e3",
                "²",
                "١",
                "",
                '"',
                "9" * 5000,
                "9" * 150_000,
            ]
        ),
        st.text(max_size=4),
    )
    rows = draw(st.lists(st.lists(cell, max_size=3), max_size=5))
    header = draw(st.sampled_from(["prompt_tokens,output_tokens", "output_tokens,prompt_tokens,x"]))
    return "\n".join([header, *(",".join(row) for row in rows)])
