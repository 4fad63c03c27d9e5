"""Addresses do what paths do: pictures, masks, models and manifests in a store of fsspec, in memory."""

import errno
import pickle
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest

import refusion
from refusion.errors import CheckpointError, ImageError, RefusionError
from refusion.imaging.arrays import from_array
from refusion.jobs.find import find, search
from refusion.jobs.plan import plan
from refusion.remote import Remote, is_remote, place

PHOTO = from_array(np.random.default_rng(0).uniform(0.2, 0.8, (6, 8, 3)))


@pytest.fixture(autouse=True)
def store() -> Iterator[fsspec.AbstractFileSystem]:
    """A store without files."""
    memory = fsspec.filesystem("memory")
    yield memory
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


def test_what_is_an_address() -> None:
    assert place("s3://b/a/") == Remote("s3://b/a")
    assert place(Remote("s3://b/a")) == Remote("s3://b/a")
    assert place("a/b.png") == place(Path("a/b.png")) == Path("a/b.png")
    assert not is_remote("C:\\a.png")
    assert not is_remote("a//b://c")


def test_an_address_has_the_parts_of_a_path() -> None:
    address = Remote("s3://bucket/day 1/a.b.jpg")
    assert (address.name, address.stem, address.suffix) == ("a.b.jpg", "a.b", ".jpg")
    assert address.parent == Remote("s3://bucket/day 1")
    assert address.with_name("c.png") == Remote("s3://bucket/day 1/c.png")
    assert Remote("s3://bucket") / Path("a", "b.png") == Remote("s3://bucket/a/b.png")
    assert address.relative_to(Remote("s3://bucket")) == Path("day 1", "a.b.jpg")
    assert address.is_relative_to(Remote("s3://bucket/day 1"))
    assert not address.is_relative_to(Remote("s3://bucket/day"))
    assert Remote("https://host/a.jpg?b=c.png").name == "a.jpg"
    assert pickle.loads(pickle.dumps(address)) == address


def test_a_picture_comes_back() -> None:
    refusion.write(PHOTO, "memory://in/a.png")
    back = refusion.read("memory://in/a.png")
    np.testing.assert_allclose(back.pixels, PHOTO.pixels, atol=0.51 / 255)


def test_limits_hold_before_the_download(store: fsspec.AbstractFileSystem) -> None:
    refusion.write(PHOTO, "memory://in/a.png")
    with pytest.raises(ImageError, match="8 x 6 pixels, more than 47"):
        refusion.read("memory://in/a.png", max_pixels=47)
    store.pipe_file("/in/large.png", bytes(2**24 + 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Remote, "read_bytes", lambda self: pytest.fail("downloaded"))
        with pytest.raises(ImageError, match="more than any picture of 100 pixels"):
            refusion.read("memory://in/large.png", max_pixels=100)


@pytest.mark.parametrize("address", ["memory://in/none.png", "memory://in"])
def test_what_is_no_file_is_named(address: str) -> None:
    refusion.write(PHOTO, "memory://in/a.png")
    with pytest.raises(ImageError, match=f"^{address} "):
        refusion.read(address)


@pytest.mark.parametrize("address", ["file:///a.png", "sftp://host/a.png"])
def test_what_does_not_replace_files_whole_is_no_store(address: str) -> None:
    with pytest.raises(RefusionError, match="is no store"):
        refusion.write(PHOTO, address)


def test_web_servers_are_read_only() -> None:
    with pytest.raises(ImageError, match="read only"):
        refusion.write(PHOTO, "https://host.invalid/a.png")
    with pytest.raises(ImageError, match="read only"):
        plan(["a.png"], Remote("https://host.invalid/out"))


def test_every_error_of_a_store_is_one_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **options: object) -> None:
        raise RuntimeError("no credentials\nat all")

    refusion.write(PHOTO, "memory://in/a.png")
    monkeypatch.setattr(type(fsspec.filesystem("memory")), "cat_file", broken)
    with pytest.raises(OSError, match="no credentials") as caught:
        Remote("memory://in/a.png").read_bytes()
    assert (caught.value.errno, caught.value.strerror) == (errno.EIO, "no credentials")
    with pytest.raises(ImageError, match=r"cannot be read \(no credentials\)"):
        refusion.read("memory://in/a.png")


def test_folders_and_patterns_are_found_as_on_disk(store: fsspec.AbstractFileSystem) -> None:
    for name in ("10.png", "2.PNG", "x.txt", ".h.png", ".git/y.png", "sub/a.jpg"):
        store.pipe_file(f"/in/{name}", b"x")
    names = [str(path) for path in find(["memory://in/"])]
    assert names == ["memory://in/2.PNG", "memory://in/10.png", "memory://in/sub/a.jpg"]
    assert search("memory://in").others == [Remote("memory://in/x.txt")]
    assert [str(path) for path in find(["memory://in/1*"])] == ["memory://in/10.png"]
    store.pipe_file("/brackets/a[1].png", b"x")
    assert [str(path) for path in find(["memory://brackets/a[1].png"])] == ["memory://brackets/a[1].png"]
    with pytest.raises(ImageError, match="does not exist"):
        find(["memory://none"])
    planned = plan(["memory://in"], Remote("memory://in/out"))
    assert [str(job.targets[0]) for job in planned.jobs] == [name.replace("in/", "in/out/") for name in names]


def test_a_model_is_downloaded_once_and_again_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: fsspec.AbstractFileSystem
) -> None:
    from refusion.models.checkpoint import bundled_models, resolve

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first, second = list(bundled_models())[:2]
    store.put_file(str(first), "/models/run/model.safetensors")
    for address in ("memory://models/run", "memory://models/run/model.safetensors"):
        file = resolve(address)
        assert file.read_bytes() == first.read_bytes()
    assert len(list((tmp_path / "refusion").iterdir())) == 1
    store.put_file(str(second), "/models/run/model.safetensors")
    assert resolve("memory://models/run").read_bytes() == second.read_bytes()
    with pytest.raises(CheckpointError, match="memory://none"):
        resolve("memory://none/model.safetensors")
