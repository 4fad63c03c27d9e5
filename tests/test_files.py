"""Files are whole or not there, names are one however they are stored, and no file of tensors does harm."""

import contextlib
import os
import pickle
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from refusion import files
from refusion.errors import CheckpointError, printable
from refusion.files import atomic, comparable, kinds, load_tensors, sweep


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


# ---- temporary files


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.slow
def test_a_part_is_swept_only_when_its_process_is_dead(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from refusion.files import atomic\n"
        "with atomic(pathlib.Path(sys.argv[1]) / 'a') as part:\n"
        "    part.write_bytes(b'half'); print(flush=True); sys.stdin.read()"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        before = names(tmp_path)
        sweep(tmp_path)
        assert names(tmp_path) == before
        assert len(before) == 1
        writer.kill()
        writer.wait()
        assert names(tmp_path) == before
        sweep(tmp_path)
        assert names(tmp_path) == []


def test_what_is_being_written_can_be_discarded_at_any_moment(tmp_path: Path) -> None:
    with contextlib.suppress(FileNotFoundError), atomic(tmp_path / "a") as part:
        part.write_bytes(b"half")
        files.discard_unfinished()
    assert names(tmp_path) == []
    with atomic(tmp_path / "b") as part:
        part.write_bytes(b"whole")
    files.discard_unfinished()
    assert names(tmp_path) == ["b"]


# ---- tensors


def strided(size: tuple[int, ...], stride: tuple[int, ...]) -> torch.Tensor:
    return torch.zeros(4).as_strided(size, stride)


def billion_laughs() -> list[object]:
    nested: list[object] = [torch.zeros(2)]
    for _ in range(60):
        nested = [nested, nested]
    return nested


HOSTILE: dict[str, Callable[[], object]] = {
    "strides of 0": lambda: {"a": strided((10**6, 10**6), (0, 0))},
    "a stride of 0": lambda: {"a": {"b": [strided((4, 10**9), (1, 0))]}},
    "overlap": lambda: (strided((2, 2, 2), (1, 1, 0)),),
    "shared": lambda: {str(i): strided((4,), (1,)).set_(SHARED) for i in range(1000)},
    "sparse": lambda: {"a": torch.sparse_coo_tensor([[0]], [1.0], (10**12,), check_invariants=True)},
    "meta": lambda: {"a": torch.empty(10**12, device="meta")},
}
SHARED = torch.zeros(1000)


@pytest.mark.parametrize("kind", HOSTILE)
def test_tensors_that_are_larger_than_their_file_are_refused(kind: str, tmp_path: Path) -> None:
    torch.save(HOSTILE[kind](), tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"a\.pth") as caught:
        load_tensors(tmp_path / "a.pth", "remedy")
    assert "\n" not in str(caught.value)


def test_an_archive_that_unpacks_to_more_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(10**6)}, tmp_path / "a.pth")
    with (
        zipfile.ZipFile(tmp_path / "a.pth") as plain,
        zipfile.ZipFile(tmp_path / "b.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    with pytest.raises(CheckpointError, match="unpack to"):
        load_tensors(tmp_path / "b.pth", "remedy")


def test_what_training_saves_is_read(tmp_path: Path) -> None:
    weight = torch.rand(30, 20)
    saved = {"a": weight, "tied": weight, "turned": weight.T, "part": weight[3:5], "none": torch.zeros(0, 3)}
    torch.save({**saved, "step": 3, "nested": [{"b": weight}]}, tmp_path / "a.pth")
    read = load_tensors(tmp_path / "a.pth", "remedy")
    assert isinstance(read, dict)
    for name, tensor in saved.items():
        assert torch.equal(read[name], tensor)
    torch.save(saved, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert isinstance(load_tensors(tmp_path / "old.pth", "remedy"), dict)


def test_shared_structure_is_walked_once(tmp_path: Path) -> None:
    torch.save(billion_laughs(), tmp_path / "a.pth")
    assert load_tensors(tmp_path / "a.pth", "remedy")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no FIFOs")
def test_a_pipe_is_no_file_of_weights(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="is not a file"):
        load_tensors(tmp_path / "a.pth", "remedy")
