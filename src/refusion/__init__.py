"""Restore photographs with mean-reverting diffusion.

>>> import refusion
>>> restore = refusion.load("shadow-removal")
>>> refusion.write(restore(refusion.read("photo.jpg")), "clean.png")
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from refusion.errors import (
        Cancelled,
        CheckpointError,
        DataError,
        ImageError,
        Notice,
        RecipeError,
        RefusionError,
        RefusionWarning,
    )
    from refusion.imaging.formats import decode, encode, read, write
    from refusion.imaging.image import Image
    from refusion.models.checkpoint import load
    from refusion.restoring.request import Limits, Progress, Request, Result, Sampling
    from refusion.restoring.restorer import Restorer

_HOMES = {
    "Cancelled": "errors",
    "CheckpointError": "errors",
    "DataError": "errors",
    "Image": "imaging.image",
    "ImageError": "errors",
    "Limits": "restoring.request",
    "Notice": "errors",
    "Progress": "restoring.request",
    "RecipeError": "errors",
    "RefusionError": "errors",
    "RefusionWarning": "errors",
    "Request": "restoring.request",
    "Restorer": "restoring.restorer",
    "Result": "restoring.request",
    "Sampling": "restoring.request",
    "decode": "imaging.formats",
    "encode": "imaging.formats",
    "load": "models.checkpoint",
    "read": "imaging.formats",
    "write": "imaging.formats",
}
__all__ = [
    "Cancelled",
    "CheckpointError",
    "DataError",
    "Image",
    "ImageError",
    "Limits",
    "Notice",
    "Progress",
    "RecipeError",
    "RefusionError",
    "RefusionWarning",
    "Request",
    "Restorer",
    "Result",
    "Sampling",
    "decode",
    "encode",
    "load",
    "read",
    "write",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Import a public name at its first use, so that `import refusion` does not import torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"refusion.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
