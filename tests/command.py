"""The command line in the process of the tests, as users call it."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest


class Said(NamedTuple):
    status: int
    out: str
    err: str


Run = Callable[..., Said]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own to work in."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def run(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """`main` with the given words: what it says, and its exit status."""
    from refusion import cli

    def call(*words: object) -> Said:
        capsys.readouterr()
        app = partial(cli.app, [str(word) for word in words])
        with monkeypatch.context() as patch:
            patch.setattr(cli, "app", app)
            with pytest.raises(SystemExit) as caught:
                cli.main()
        said = Said(int(caught.value.code or 0), *capsys.readouterr())
        assert "Traceback" not in said.err
        return said

    return call
