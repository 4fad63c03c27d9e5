"""Names are one however their accents are stored, and what a file of weights would run is not run."""

import os
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from refusion.errors import CheckpointError, printable
from refusion.files import comparable, kinds, load_tensors


def test_a_name_is_one_however_it_is_stored() -> None:
    assert comparable("e\u0301te\u0301") == comparable("\u00e9t\u00e9") == "\u00e9t\u00e9"
    assert comparable("\u1112\u1161\u11ab") == "\ud55c"
    assert comparable("a") != comparable("A")


def test_what_is_passed_over_is_told_by_kind() -> None:
    names = ["a.heic", "b.HEIC", "c.dng", "d", "e.heic", "f.bmp~"]
    assert kinds(map(Path, names)) == ".heic (3) (no suffix) .bmp~ .dng"
    many = [Path(f"{i}.x{i}") for i in range(12)]
    assert kinds(many) == " ".join(f".x{i}" for i in (0, 1, 10, 11, 2, 3, 4, 5)) + " and 4 kinds more"
    assert kinds([]) == ""


class Command:
    """What runs a command as it is unpickled."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        self.parts = call, arguments

    def __reduce__(self) -> Any:
        return self.parts


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    ("call", "arguments", "named"),
    [
        (os.system, ("touch ran",), "system"),
        (eval, ("open('ran', 'w')",), "eval"),
        (Path, ("ran",), "Path"),
    ],
)
def test_a_pickle_with_more_than_tensors_is_refused_in_our_words(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: Any,
    arguments: tuple[Any, ...],
    named: str,
    protocol: int,
) -> None:
    monkeypatch.chdir(tmp_path)
    forged = {"params": torch.zeros(2), "x": Command(call, *arguments)}
    torch.save(forged, "zip.pth", pickle_protocol=protocol)
    torch.save(forged, "old.pth", pickle_protocol=protocol, _use_new_zipfile_serialization=False)
    Path("bare.pth").write_bytes(pickle.dumps(forged["x"], protocol))
    for name in ("zip.pth", "old.pth", "bare.pth"):
        with pytest.raises(CheckpointError) as caught:
            load_tensors(Path(name), "give a file")
        message = str(caught.value)
        assert message.startswith(f"{name}: ")
        assert "ask for tensors alone, as safetensors or a state dict" in message
        for foreign in ("weights_only", "torch.load", "add_safe_globals", "https://"):
            assert foreign not in message
        if protocol == 2:
            assert re.match(rf"{name}: runs \S*{named}\S*, so it was not opened; ", message)
        assert message == printable(message)
    assert not Path("ran").exists()


@pytest.mark.parametrize("content", [b"<html>404</html>", b"\x80\x04\x95", bytes(range(256)), b""])
def test_what_is_no_file_of_tensors_is_one_line_of_ours(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        load_tensors(tmp_path / "a.pth", "give a file")
    message = str(caught.value)
    assert message == printable(message)
    assert "damaged" in message
    assert "weights_only" not in message
