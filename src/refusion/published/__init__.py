"""Published weights of IR-SDE and Refusion (Luo et al. 2023): reading, recognition, and use as published.

A file of weights determines the architecture of its network, but not its process. `read` returns the tensors
of a file, `infer` the published class and the tasks that they fit, and `build` a network that computes the
same as the published one. Class names, settings and keys are the published ones.
"""

from refusion.published.facts import IR_SDE, REFUSION, TABLES, Facts, Inferred, infer
from refusion.published.files import Weights, read, unwrap
from refusion.published.networks import (
    AS_THEY_ARE,
    Autoencoder,
    Denoiser,
    Hidden,
    build,
    from_published,
    shapes,
    to_published,
)

__all__ = [
    "AS_THEY_ARE",
    "IR_SDE",
    "REFUSION",
    "TABLES",
    "Autoencoder",
    "Denoiser",
    "Facts",
    "Hidden",
    "Inferred",
    "Weights",
    "build",
    "from_published",
    "infer",
    "read",
    "shapes",
    "to_published",
    "unwrap",
]
