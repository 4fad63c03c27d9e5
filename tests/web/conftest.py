"""A service with a worker that plays its part."""

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi")

from served import Served, serving


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One for all tests that leave nothing behind."""
    with serving(tmp_path_factory.mktemp("shared") / "data") as service:
        yield service


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path / "data") as service:
        yield service
