"""Files that users name: what is no text file of bounded size is refused at once, by line."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sim.cli.verbs import app
from sim.foundation.errors import CalibrationError, ScenarioError
from sim.foundation.reading import MOST_LINE_BYTES, lines, read_text

MOST = 1 << 22


def refused(path: Path, most_bytes: int = MOST) -> str:
    with pytest.raises(ScenarioError) as caught:
        list(lines(path, most_bytes))
    (problem,) = caught.value.problems
    assert problem.startswith(f"{path}:")
    return problem.removeprefix(str(path))


@pytest.mark.parametrize(
    "content",
    [b"", b"a", b"a\n", b"a\r\nb", b"a\rb\r", b"\xef\xbb\xbfa\nb\n", "ä\u2028b\x0bc\n".encode()],
)
def test_text_is_that_of_universal_newlines(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(content)
    text = path.read_text(encoding="utf-8-sig")
    assert read_text(path, MOST) == text
    assert list(lines(path, MOST)) == text.split("\n")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_long_files_are_read_in_parts(end: str, tmp_path: Path) -> None:
    path = tmp_path / "text"
    expected = [f"{number:06d}ä" for number in range(300_000)]
    path.write_text(end.join(expected), encoding="utf-8", newline="")
    assert path.stat().st_size > 2 * MOST_LINE_BYTES
    assert list(lines(path, MOST)) == expected


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        for path in (tmp_path, Path("/dev/zero"), *(tmp_path / n for n in ("fifo", "link"))):
            assert refused(path).startswith(": cannot be read: it is not a regular file")
        assert refused(tmp_path / "socket").startswith(": cannot be read: it is not a regular file")


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for name in ("missing", "loop", "x" * 300, "nul\0"):
        assert refused(tmp_path / name).startswith(": cannot be read: ")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a\nb\xff\n", ":2: cannot be read: byte 0xff is not UTF-8 text"),
        (b"a\r\n\r\nb\0\n", ":3: cannot be read: byte 0x00"),
        ("a\nb".encode("utf-16"), ":1: cannot be read: byte 0xff"),
        (
            b"\n" * MOST_LINE_BYTES + b"a\n\xe9",
            f":{MOST_LINE_BYTES + 2}: cannot be read: byte 0xe9",
        ),
    ],
)
def test_what_is_no_text(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(content)
    assert refused(path).startswith(said)


@pytest.mark.parametrize("behind", ["", "\nb\n"])
@pytest.mark.parametrize("more", [1, MOST_LINE_BYTES, 2 * MOST_LINE_BYTES])
def test_lines_of_any_length_are_not_taken(more: int, behind: str, tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("a\n" + "x" * MOST_LINE_BYTES + behind)
    assert len(list(lines(path, MOST))) == len(f"a\nx{behind}".split("\n"))
    path.write_text("a\n" + "x" * (MOST_LINE_BYTES + more) + behind)
    assert refused(path).startswith(":2: a line should have at most 1,048,576 bytes")


def test_files_of_any_size_are_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("12345678\n")
    assert list(lines(path, 9)) == ["12345678", ""]
    assert refused(path, 8) == ": has more than 8 bytes; shorten it"
    with path.open("r+b") as file:
        file.truncate(1 << 40)
    assert "more than 4,194,304 bytes" in refused(path)


def test_the_error_is_of_the_kind_that_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="regular file"):
        read_text(tmp_path, MOST, CalibrationError)


@pytest.mark.parametrize(
    "command",
    [
        ("validate", "FILE"),
        ("models", "show", "FILE"),
        ("hardware", "show", "FILE"),
        ("new", "mine", "--from", "FILE"),
        ("sweep", "FILE"),
        ("study", "FILE"),
        ("theory", "FILE"),
        ("validate", "dsv3-ep128", "--set", "model=FILE"),
        ("validate", "dsv3-ep128", "--set", "deployment.accelerator=FILE"),
    ],
)
def test_names_that_no_file_can_have(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    os.mkfifo(tmp_path / "fifo.yaml")
    for name in ("x" * 300, f"./{'x' * 300}.yaml", "./latin.yaml", "./fifo.yaml", "/dev/zero"):
        done = CliRunner().invoke(app, [word.replace("FILE", name) for word in command])
        assert isinstance(done.exception, ScenarioError), (name, done.output)
    assert not (tmp_path / "scenarios" / "mine.yaml").exists()
