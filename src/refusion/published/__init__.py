"""Published weights of IR-SDE and Refusion (Luo et al. 2023): read, recognised, and called as published.

A file of weights tells the shape of its network, and nothing of its process. `read` takes the tensors out of
it, `infer` says whose they are and what stays open, and `build` makes the network, which computes what the
published one computes. Class names, settings and keys are the published ones.
"""

from refusion.published.facts import IR_SDE, REFUSION, TABLES, Facts, Inferred, infer
from refusion.published.files import Weights, read, unwrap
from refusion.published.networks import (
    AS_THEY_ARE,
    Autoencoder,
    Denoiser,
    Hidden,
    build,
    ours,
    shapes,
    theirs,
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
    "infer",
    "ours",
    "read",
    "shapes",
    "theirs",
    "unwrap",
]
