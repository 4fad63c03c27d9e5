"""A picture comes from standard input and goes to standard output, byte for byte what a file would be."""

import io
import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
from terminal import mask, photo, views

from refusion import cli
from refusion.cli import pipes
from refusion.imaging.formats import SUFFIXES, decode


class Passed(NamedTuple):
    status: int
    out: bytes
    err: str


class Stream(io.TextIOWrapper):
    def __init__(self, content: bytes, terminal: bool) -> None:
        super().__init__(io.BytesIO(content), encoding="utf-8", write_through=True)
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where files stand for pipes; nothing is left there."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def pipe(
    monkeypatch: pytest.MonkeyPatch,
    content: bytes,
    *words: object,
    terminals: tuple[bool, bool] = (False, False),
) -> Passed:
    """Runs `restore` with standard input and output of bytes."""
    err = io.StringIO()
    out = Stream(b"", terminals[1])
    buffer = out.buffer
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdin", Stream(content, terminals[0]))
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        patch.setattr(cli, "app", partial(cli.app, ["restore", *map(str, words)]))
        with pytest.raises(SystemExit) as caught:
            cli.main()
        written = buffer.getvalue()  # type: ignore[attr-defined]
    assert "Traceback" not in err.getvalue()
    return Passed(int(caught.value.code or 0), written, err.getvalue())


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_bytes_come_back_in_the_format_that_came_in(
    monkeypatch: pytest.MonkeyPatch, temporary: Path, model: Path, suffix: str
) -> None:
    """And are those of the file that the same picture in a file would give."""
    source = photo(f"a{suffix}")
    expected = pipe(monkeypatch, b"", source, "-o", f"b{suffix}", "--model", model)
    assert expected.out.decode() == f"restored 1 of 1 to b{suffix} with {model}\n"
    spellings = [("-",), (source, "-o", "-"), ("-", "-o", "-"), ("-", "--out=-")]
    for words in spellings if suffix == ".png" else spellings[:1]:
        passed = pipe(monkeypatch, source.read_bytes(), *words, "--model", model)
        assert passed.status == 0
        assert passed.err == f"refusion: restored 1 of 1 to standard output with {model}\n"
        assert passed.out == Path(f"b{suffix}").read_bytes(), words
    assert list(temporary.iterdir()) == []
    assert not Path("restored").exists()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["png", ".png", "JPG", "webp"])
def test_a_format_may_be_asked_for(
    monkeypatch: pytest.MonkeyPatch, temporary: Path, model: Path, form: str
) -> None:
    source = photo("a.tif")
    passed = pipe(monkeypatch, source.read_bytes(), "-", "--format", form, "--model", model)
    pipe(monkeypatch, b"", source, "-o", f"b.{form.removeprefix('.')}", "--model", model)
    assert passed.out == Path(f"b.{form.removeprefix('.')}").read_bytes()
    assert decode(passed.out).size == (10, 8)


def test_standard_input_may_go_to_a_file(
    monkeypatch: pytest.MonkeyPatch, temporary: Path, model: Path
) -> None:
    source, _ = photo("a.png"), mask("m.png")
    words = ("--mask", "m.png", "--samples", 2, "--uncertainty", "--model", model)
    passed = pipe(monkeypatch, source.read_bytes(), "-", "-o", "b.png", *words)
    assert (passed.status, passed.err) == (0, "")
    assert passed.out.decode() == f"restored 1 of 1 to b.png with {model}\n"
    pipe(monkeypatch, b"", source, "-o", "c.png", *words)
    for name in ("{}.png", "{}-uncertainty.png"):
        assert Path(name.format("b")).read_bytes() == Path(name.format("c")).read_bytes()


@pytest.mark.parametrize(
    "content", [b"", b"<html>404</html>", bytes(10**6), b"\x89PNG\r\n\x1a\n" + bytes(99)]
)
def test_what_is_no_picture_is_one_line_and_no_bytes(
    monkeypatch: pytest.MonkeyPatch, temporary: Path, model: Path, content: bytes
) -> None:
    passed = pipe(monkeypatch, content, "-", "--model", model)
    assert (passed.status, passed.out) == (1, b"")
    fault, summary = passed.err.splitlines()
    assert fault.startswith("refusion: standard-input is ")
    assert summary == f"refusion: restored 0 of 1 to standard output with {model}; 1 failed"
    assert list(temporary.iterdir()) == []


class Endless(io.RawIOBase):
    """Bytes without an end."""

    def __init__(self, head: bytes) -> None:
        self.head, self.given = head, 0

    def read(self, size: int = -1) -> bytes:
        assert size > 0, "all at once"
        self.given += size
        head, self.head = self.head, b""
        return head or bytes(size)


@pytest.mark.parametrize(("head", "most"), [(bytes(64), 2**10), (b"\x89PNG\r\n\x1a\n" + bytes(56), 2**23)])
def test_a_stream_without_an_end_is_not_followed(
    monkeypatch: pytest.MonkeyPatch, temporary: Path, model: Path, head: bytes, most: int
) -> None:
    monkeypatch.setattr(pipes, "LIMIT", 2**22)
    endless = Endless(head)
    monkeypatch.setattr(Stream, "buffer", property(lambda self: endless if self.readable() else None))
    monkeypatch.setattr(sys, "stdin", Stream(b"", False))
    if most > 2**20:
        with pytest.raises(ValueError, match="standard input has more than"):
            pipes._stored(temporary / "a")
    else:
        pipes._stored(temporary / "a")
    assert endless.given < most


@pytest.mark.parametrize(
    ("words", "terminals", "part"),
    [
        (["-"], (True, False), "standard input is the terminal: add < photo.jpg"),
        (["-"], (False, True), "standard output is the terminal: add > result.png"),
        (["a.png", "-o", "-"], (False, True), "standard output is the terminal"),
        (["-", "a.png"], (False, False), "- stands for one picture"),
        (["a.png", "b.png", "-o", "-"], (False, False), "- stands for one picture"),
        (["in", "-o", "-"], (False, False), "- stands for one picture"),
        (["-", "-o", "folder"], (False, False), "--out is folder: name a file"),
        (["-", "-o", "in"], (False, False), "--out is in: name a file"),
        (["-", "--samples", "2", "--uncertainty"], (False, False), "--uncertainty writes a second picture"),
        (["-", "--format", "doc"], (False, False), "--format is doc: give one of png"),
        (["a.png", "--format", "png"], (False, False), "--format is for standard output"),
        (["-", "-o", "b.png", "--format", "png"], (False, False), "--format is for standard output"),
    ],
)
def test_what_does_not_go_through_a_pipe_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    temporary: Path,
    model: Path,
    words: list[str],
    terminals: tuple[bool, bool],
    part: str,
) -> None:
    content = photo("a.png").read_bytes()
    photo("b.png")
    photo("in/c.png")
    passed = pipe(monkeypatch, content, *words, "--model", model, terminals=terminals)
    assert (passed.status, passed.out) == (1, b"")
    assert passed.err.count("\n") == 1
    assert part in passed.err
    assert str(temporary) not in passed.err
    assert list(temporary.iterdir()) == []


def test_two_views_do_not_go_through_one_pipe(
    monkeypatch: pytest.MonkeyPatch, temporary: Path, models: Path
) -> None:
    views("l.png", "r.png")
    words = ("-", "--model", models / "stereo.safetensors")
    passed = pipe(monkeypatch, Path("l.png").read_bytes(), *words)
    assert (passed.status, passed.out) == (1, b"")
    assert "1 paths: this model takes two" in passed.err
