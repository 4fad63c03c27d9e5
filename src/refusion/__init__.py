"""Restore photographs with mean-reverting diffusion.

>>> import refusion
>>> restore = refusion.load("shadow-removal")
>>> refusion.write(restore(refusion.read("photo.jpg")), "clean.png")
"""

from refusion.checkpoint import load
from refusion.errors import CheckpointError, DataError, ImageError, RecipeError, RefusionError
from refusion.image import Image, read, write
from refusion.restorer import Restorer, Samples, Sampling

__all__ = [
    "CheckpointError",
    "DataError",
    "Image",
    "ImageError",
    "RecipeError",
    "RefusionError",
    "Restorer",
    "Samples",
    "Sampling",
    "load",
    "read",
    "write",
]
__version__ = "0.1.0"
