"""The input pictures of a request and the restored ones, and what a look at them tells."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from refusion.errors import Notice
from refusion.imaging.analysis import vertical_offset
from refusion.imaging.fill import FILLS
from refusion.imaging.image import Image

UNCHANGED = 1 / 255
"""A picture counts as unchanged if the largest difference of a pixel is below this."""


@dataclass(frozen=True, eq=False)
class Scene:
    """The input pictures of a request, and the mask of their holes.

    Args:
        sources: the pictures.
        holes: the mask, if there is one.
        guides: maps for the network, for each picture.
        fill: of the holes, a name in `FILLS`.
    """

    sources: tuple[Image, ...]
    holes: Float[Tensor, "1 h w"] | None
    guides: Float[Tensor, "b guides h w"]
    fill: str = "white"

    def tensor(self) -> Float[Tensor, "b 3 h w"]:
        """Return the pictures as the model expects them, with filled holes; a single one is not copied."""
        if len(self.sources) == 1 and self.holes is None:
            return self.sources[0].tensor()[None]
        pictures = (source.tensor() for source in self.sources)
        return torch.stack([z if self.holes is None else FILLS[self.fill](z, self.holes) for z in pictures])

    def images(self, restored: Float[Tensor, "b 3 h w"]) -> tuple[Image, ...]:
        """Return the restored pictures; pixels outside the holes are those of the input."""
        if self.holes is not None:
            kept = torch.stack([source.tensor() for source in self.sources])
            restored = torch.where(self.holes > 0, restored.cpu(), kept)
        return tuple(
            source.with_pixels(z, owned=True) for source, z in zip(self.sources, restored, strict=True)
        )


def rectification_notices(views: Sequence[Image]) -> Iterator[Notice]:
    """Yield a warning if the right view is more than a pixel above or below the left one."""
    if len(views) > 1 and abs(offset := vertical_offset(*(view.tensor() for view in views))) > 1:
        text = f"right is {offset:+.1f} pixels lower than left: rectify them for good results"
        yield Notice("unrectified-views", text, "warning")


def unchanged_notices(sources: Sequence[Image], restored: Sequence[Image]) -> Iterator[Notice]:
    """Yield a warning for each picture in which no pixel changed visibly."""
    for source, image in zip(sources, restored, strict=True):
        rows = zip(image.pixels, source.pixels, strict=True)  # one by one, without a copy of the picture
        if all(np.abs(after - before).max() < UNCHANGED for after, before in rows):
            yield Notice("unchanged", "nothing changed; is this a picture for this model?", "warning")
