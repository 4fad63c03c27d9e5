"""The command that restores, and what it has written."""

import sys
from pathlib import Path

COMMAND = [sys.executable, "-m", "refusion", "restore"]


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files of a folder, hidden ones too."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
