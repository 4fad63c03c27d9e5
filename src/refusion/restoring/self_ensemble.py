"""Self-ensemble: the mean of the restorations of a picture in its eight orientations.

What a network answers depends on how a picture lies. Where the truth does not, the mean errs less (Timofte et
al. 2016, arXiv 1511.02228; Lim et al. 2017, arXiv 1707.02921); rain, which falls, is none of its tasks.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from refusion.errors import Notice, Report
from refusion.imaging.image import Image
from refusion.restoring.request import Ensemble, Progress, Request, Result
from refusion.restoring.tiling import ignore


@dataclass(frozen=True)
class Orientation:
    """A way to lay a picture.

    Args:
        quarters: of a turn.
        mirrored: after turning.
    """

    quarters: int
    mirrored: bool

    def laid(self, values: np.ndarray, rows: int = 0) -> np.ndarray:
        """Return an array whose axes `rows` and `rows` + 1 are laid this way."""
        turned = np.rot90(values, self.quarters, (rows, rows + 1))
        return np.ascontiguousarray(np.flip(turned, rows + 1) if self.mirrored else turned)

    def back(self, pixels: np.ndarray) -> np.ndarray:
        """Return pixels (h, w, 3) as they were before `laid`."""
        return np.rot90(np.fliplr(pixels) if self.mirrored else pixels, -self.quarters)

    def of(self, request: Request) -> Request:
        """Return the request for the picture in this orientation."""
        (image,) = request.images
        mask, guides = request.mask, request.guides
        return replace(
            request,
            images=(replace(image, pixels=self.laid(image.pixels), alpha=None),),
            mask=None if mask is None else self.laid(mask),
            guides=None if guides is None else self.laid(guides, guides.ndim - 2),
            self_ensemble=False,
        )


ORIENTATIONS = [Orientation(quarters, mirrored) for mirrored in (False, True) for quarters in range(4)]

Told = Callable[[Progress], object]


def self_ensemble(
    run: Callable[[Request, Report, Told | None], Result],
    request: Request,
    source: Image,
    progress: Told | None,
    report: Report,
) -> Result:
    """Return the mean over the orientations.

    Args:
        run: restores in one orientation.
        request: for one picture.
        source: the picture, with as many pixels as the restored one.
        progress: called after every step.
        report: called with the notices of the first restoration, which are those of the result.
    """
    ensemble, done = Ensemble(source.pixels.shape), itertools.count(1)
    notices: tuple[Notice, ...] = ()
    for orientation in ORIENTATIONS:

        def as_it_lay(at: Progress, way: Orientation = orientation) -> None:
            def preview() -> tuple[Image, ...]:
                return (source.with_pixels(way.back(at.preview()[0].pixels)),)

            assert progress is not None
            progress(Progress(next(done), len(ORIENTATIONS) * at.total, preview))

        first = ensemble.count == 0
        result = run(orientation.of(request), report if first else ignore, progress and as_it_lay)
        ensemble.add(orientation.back(result.image.pixels))
        notices = result.notices if first else notices
    return Result((source.with_pixels(ensemble.mean),), notices=notices)
