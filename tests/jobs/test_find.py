"""What files, folders and patterns mean, each picture once and in the order of people."""

import os
from pathlib import Path

import pytest

from refusion.errors import ImageError
from refusion.imaging.formats import read
from refusion.jobs import find as find_module
from refusion.jobs.find import find, kinds_of, search


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    touch(
        tmp_path,
        "d/10.png",
        "d/2.PNG",
        "d/x.txt",
        "d/.h.png",
        "d/.git/y.png",
        "d/sub/a.jpg",
        "b[1].tif",
        "n.txt",
    )
    names = [path.as_posix() for path in find(["d"])]
    assert names == ["d/2.PNG", "d/10.png", "d/sub/a.jpg"]
    assert find(["d/"]) == find(["d/*"]) == find([Path("d")]) == find(["d", "d/10.png"])
    assert find(["d/1*"]) == [Path("d/10.png")]
    assert find(["**/*.jpg"]) == [Path("d/sub/a.jpg")]
    assert find(["n.txt", "b[1].tif"]) == [Path("n.txt"), Path("b[1].tif")]
    assert find([]) == []
    assert [p.name for p in find([tmp_path / "d" / ".git"])] == ["y.png"]


@pytest.mark.parametrize(
    ("path", "words"), [("no.png", "does not exist"), ("*.png", "no pictures"), ("e", "no pictures")]
)
def test_find_names_what_gives_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "e/n.txt", "a.jpg")
    with pytest.raises(ImageError) as caught:
        find(["a.jpg", path])
    message = str(caught.value)
    assert message.startswith(path)
    assert words in message
    assert "\n" not in message
    assert len(message) < 400
    assert caught.value.__cause__ is caught.value.__context__ is None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no FIFOs")
def test_special_files_are_named_and_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    for path in (tmp_path / "a.png", Path("/dev/zero")):
        with pytest.raises(ImageError, match="is a pipe, device or socket"):
            find([path])
        with pytest.raises(ImageError, match="is a pipe, device or socket"):
            read(path)


def test_camera_raw_is_found_where_it_can_be_developed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "d/a.jpg", "d/b.NEF", "d/c.dng", "d/.h.cr2", "d/e.heic", "e/a.ARW")
    raws = [Path("d/b.NEF"), Path("d/c.dng")]
    monkeypatch.setattr(find_module, "can_develop", lambda: True)
    assert search("d") == ([Path("d/a.jpg"), *raws], [Path("d/e.heic")])
    assert find(["d/[bc].*"]) == raws
    assert kinds_of(search("d").others) == ".heic"
    monkeypatch.setattr(find_module, "can_develop", lambda: False)
    found = search("d")
    assert found.pictures == [Path("d/a.jpg")]
    assert {*found.others} == {*raws, Path("d/e.heic")}
    assert "refusion[raw]" in kinds_of(found.others)
    assert "refusion[raw]" not in kinds_of([Path("d/e.heic")])
    assert find(["d/c.dng"]) == [Path("d/c.dng")]
    with pytest.raises(ImageError, match=r"refusion\[raw\]"):
        search("e")
