"""Places that are paths of this machine or files of an object store or web server, by one set of names.

`Remote` has those names of `pathlib.Path` that pictures, models and manifests need, on fsspec
(`pip install "refusion[remote]"`), which is imported when the first one is used.
"""

import contextlib
import errno
import os
import re
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from refusion.errors import RefusionError, first_line

READ_ONLY = ("http", "https")
"""Schemes of web servers: their files are read, neither listed nor written."""
STORES = ("s3", "gs", "gcs", "az", "abfs", "memory")
"""Schemes of stores in which a file is replaced whole or not at all."""
ADDRESS = re.compile(r"([a-z][a-z0-9+.-]*)://")
MAGIC = "*?["
"""Characters of patterns."""


@dataclass(frozen=True, order=True)
class Remote:
    """A file or a folder of an object store or web server.

    A file is written by one request that replaces it whole, or not at all. Every error is an OSError, with
    the reason as its `strerror`.

    Args:
        url: as "s3://bucket/folder/name.png", without a slash at its end.
    """

    url: str

    def __str__(self) -> str:
        return self.url

    @property
    def scheme(self) -> str:
        """The part before "://"."""
        return self.url.partition("://")[0]

    @property
    def inner(self) -> PurePosixPath:
        """What follows "://" as a path: bucket or server, then folders and name; without a query."""
        rest = self.url.partition("://")[2]
        return PurePosixPath(rest.partition("?")[0] if self.scheme in READ_ONLY else rest)

    @property
    def parts(self) -> tuple[str, ...]:
        return self.inner.parts

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def stem(self) -> str:
        return self.inner.stem

    @property
    def suffix(self) -> str:
        return self.inner.suffix

    @property
    def parent(self) -> "Remote":
        return Remote(f"{self.scheme}://{self.inner.parent}")

    def __truediv__(self, name: str | os.PathLike[str]) -> "Remote":
        return Remote(f"{self.url}/{PurePosixPath(Path(name).as_posix())}")

    def with_name(self, name: str) -> "Remote":
        return self.parent / name

    def relative_to(self, folder: "Remote") -> Path:
        return Path(self.inner.relative_to(folder.inner))

    def resolve(self) -> "Remote":
        return self

    def is_relative_to(self, folder: "Place") -> bool:
        return str(self) == str(folder) or str(self).startswith(f"{folder}/")

    def exists(self) -> bool:
        """Whether there is a file or a folder, asked anew each time."""
        with _as_os_error(self.url):
            return bool(self._files.exists(self.url))

    def is_file(self) -> bool:
        """Whether there is a file; of a web server every address is taken as one."""
        return self.scheme in READ_ONLY or self._kind == "file"

    def is_dir(self) -> bool:
        return self.scheme not in READ_ONLY and self._kind == "directory"

    def stat(self) -> os.stat_result:
        """Return the kind and the size in bytes; the first answer is kept.

        Raises:
            OSError: there is no such file, or its server does not tell its size.
        """
        size = self._info["size"]
        if size is None:
            raise OSError(errno.EFBIG, "its server does not tell its size, download it first", self.url)
        mode = stat.S_IFDIR if self._info["type"] == "directory" else stat.S_IFREG
        return os.stat_result((mode, 0, 0, 1, 0, 0, size, 0, 0, 0))

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Do nothing: stores have names of files only."""

    def read_bytes(self) -> bytes:
        with _as_os_error(self.url):
            return bytes(self._files.cat_file(self.url))

    def write_bytes(self, data: bytes) -> None:
        if self.scheme in READ_ONLY:
            raise OSError(errno.EROFS, f"{self.scheme} is read only", self.url)
        with _as_os_error(self.url):
            self._files.pipe_file(self.url, data)

    def open(self, mode: Literal["rb"] = "rb") -> Any:
        """Return the file as a stream of bytes that is read block by block."""
        with _as_os_error(self.url):
            return self._files.open(self.url, mode)

    def download(self, path: Path) -> None:
        """Write the file's bytes to a file of this machine, block by block."""
        with self.open() as stream, path.open("wb") as file:
            shutil.copyfileobj(stream, file, 2**20)

    def version(self) -> str:
        """Return a word that is another one when the file has changed."""
        with _as_os_error(self.url):
            return str(self._files.ukey(self.url))

    def files(self) -> "list[Remote]":
        """Return the files of a folder and its subfolders."""
        with _as_os_error(self.url):
            return [self._named(path) for path in self._files.find(self.url)]

    def matches(self) -> "list[Remote]":
        """Return what matches a pattern, files and folders."""
        with _as_os_error(self.url):
            return [self._named(path) for path in self._files.glob(self.url)]

    def _named(self, path: str) -> "Remote":
        return Remote(f"{self.scheme}://{path.strip('/')}")

    @property
    def _kind(self) -> str:
        try:
            return str(self._info["type"])
        except FileNotFoundError:
            return ""

    @cached_property
    def _info(self) -> dict[str, Any]:
        with _as_os_error(self.url):
            info: dict[str, Any] = self._files.info(self.url)
            return info

    @property
    def _files(self) -> Any:
        """The file system of fsspec, which it keeps for each process."""
        if self.scheme not in (*STORES, *READ_ONLY):
            known = " ".join((*STORES, *READ_ONLY))
            raise RefusionError(f"{self.url}: {self.scheme} is no store; expected one of {known}, or a path")
        try:
            import fsspec

            # Other machines write into the same folders: nothing may be answered from an old listing.
            return fsspec.filesystem(self.scheme, use_listings_cache=False)
        except ImportError as error:
            needed = f"pip install 'refusion[remote]', or fsspec's package for {self.scheme}"
            raise RefusionError(f"{self.url} needs {error.name or 'fsspec'}: {needed}") from error

    def __getstate__(self) -> dict[str, str]:
        return {"url": self.url}


Place = Path | Remote
"""A path of this machine, or a file or folder elsewhere."""


def place(path: str | os.PathLike[str] | Remote) -> Place:
    """Return the place of a path or an address; what has "://" in it is an address."""
    if isinstance(path, Remote):
        return path
    text = os.fspath(path)
    return Remote(text.rstrip("/")) if isinstance(path, str) and is_remote(text) else Path(text)


def is_remote(path: str) -> bool:
    """Return whether a path is an address, as "s3://bucket/a.png"."""
    return ADDRESS.match(path) is not None


def has_magic(path: str) -> bool:
    """Return whether an address is a pattern; in those of web servers "?" begins a query."""
    return not path.startswith(READ_ONLY) and any(character in path for character in MAGIC)


@contextlib.contextmanager
def _as_os_error(url: str) -> Iterator[None]:
    """Turn the errors of all stores into OSErrors of a kind, with a reason and the address."""
    try:
        yield
    except RefusionError:
        raise
    except FileNotFoundError as error:
        raise FileNotFoundError(errno.ENOENT, "there is no such file", url) from error
    except PermissionError as error:
        raise PermissionError(errno.EACCES, first_line(error), url) from error
    except Exception as error:  # of HTTP clients and credentials, which have no common root
        raise OSError(errno.EIO, first_line(error), url) from error
