"""Text that steers a terminal is shown, never obeyed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.cli.text import say
from sim.foundation.printable import excerpt, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, größer, 图", "plain, größer, 图"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("a\r\nb\tc\0", r"a\r\nb\tc\x00"),
        ("\x9b2J", r"\x9b2J"),
        ("abc\u202edcba", r"abc\u202edcba"),
        ("\u2028", r"\u2028"),
        ("\udcff", r"\udcff"),
    ],
)
def test_what_steers_a_terminal_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text())
def test_any_text_fits_a_terminal_and_a_file(text: str) -> None:
    shown = printable(text)
    assert printable(shown) == shown
    assert not any(ord(sign) < 0x20 or 0x7F <= ord(sign) < 0xA0 for sign in shown)
    shown.encode("utf-8")


def test_an_excerpt_is_short_however_it_is_escaped() -> None:
    assert excerpt("ab") == "ab"
    assert excerpt("x" * 61) == "x" * 57 + "..."
    assert len(excerpt("\x1b" * 10**6)) == 60


def test_talk_keeps_its_own_lines_alone(capsys: pytest.CaptureFixture[str]) -> None:
    say("one\ntwo \x1b[2J")
    assert capsys.readouterr().err == "one\ntwo \\x1b[2J\n"
