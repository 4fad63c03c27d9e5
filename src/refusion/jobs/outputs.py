"""The folders of results, checked before a picture is restored for nothing."""

import errno
import tempfile
from pathlib import Path

from refusion.errors import ImageError
from refusion.files import sweep
from refusion.jobs.plan import Job

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Errors of writing that all other pictures would meet, too."""


class Outputs:
    """The folders of the results of a run, and what was found of them."""

    def __init__(self) -> None:
        self._checked: set[Path] = set()
        self._failed: dict[Path, ImageError] = {}
        self._full: ImageError | None = None

    def check(self, job: Job) -> None:
        """Check that the results of a job can be written, and sweep what dead runs left in their folder.

        Raises:
            ImageError: they cannot; it says the same for each job that has the same obstacle.
        """
        if self._full is not None:
            raise self._full
        folders = {target.parent for target in job.targets if isinstance(target, Path)}
        for folder in folders - self._checked:
            place = next(place for place in (folder, *folder.parents) if place.exists())
            if place not in self._failed:
                try:
                    sweep(place)
                    with tempfile.TemporaryFile(dir=place):
                        pass
                except OSError as error:
                    reason = f"{place} cannot be written ({error.strerror})"
                    self._failed[place] = ImageError(
                        f"{reason}: give another --out, or check its permissions"
                    )
            if place in self._failed:
                raise self._failed[place]
            self._checked.add(folder)

    def note(self, error: BaseException) -> None:
        """Remember an error of a full disk: the other results do not fit either."""
        cause = error.__cause__ or error.__context__
        if isinstance(error, ImageError) and isinstance(cause, OSError) and cause.errno in FULL:
            self._full = error
