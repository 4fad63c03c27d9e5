"""Pictures of jobs that browsers show: made by the worker when they are asked for, and kept."""

import asyncio
from pathlib import Path

from refusion.web.messages import View
from refusion.web.process import WorkerProcess
from refusion.web.refusal import Refusal

SIDES = (160, 320, 640, 1280, 2560)
"""Sides of reduced pictures; others are rounded up, so that few are kept."""


class Views:
    """The pictures that browsers show.

    Args:
        worker: makes them.
    """

    def __init__(self, worker: WorkerProcess) -> None:
        self._worker = worker
        self._making: dict[Path, asyncio.Task[None]] = {}
        self._deadly: set[str] = set()  # files that ended a worker, which are not read again for a view

    def avoid(self, source: str) -> None:
        """Do not show a file, which ended a worker."""
        self._deadly.add(source)

    async def file(self, source: Path, name: str, side: int | None) -> Path:
        """Return the file of a picture as browsers show it.

        Args:
            source: in the folder of a job.
            name: what the client calls it.
            side: longest side in pixels, rounded up to one of `SIDES`; by default, or beyond them, as it is.

        Raises:
            Refusal: there is no such file, or it is no picture.
        """
        if not source.is_file():
            raise Refusal(404, "the job has no such picture (yet)")
        if str(source) in self._deadly:
            raise Refusal(415, f"{name}: reading it ended the worker: convert it first")
        rounded = None if side is None else next((s for s in SIDES if s >= side), None)
        changed = source.stat().st_mtime_ns
        target = source.parent / "views" / f"{source.name}-{rounded or 'whole'}-{changed:x}"
        if not target.is_file():
            if target not in self._making:
                self._making[target] = asyncio.create_task(self._make(source, name, target, rounded))
            await asyncio.shield(self._making[target])  # others may wait for it, too
        return target

    async def _make(self, source: Path, name: str, target: Path, side: int | None) -> None:
        files = (str(source), str(target))
        try:
            await self._worker.ask(
                lambda number: View(number=number, source=files[0], name=name, target=files[1], side=side)
            )
        finally:
            del self._making[target]
