"""Facts about published networks: those inferred from tensors, and tables of those that are not."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from refusion.errors import CheckpointError

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Facts:
    """The published facts of a task that cannot be inferred from tensors.

    Args:
        noise_level: lambda in units of [0, 1].
        steps: T.
        delta: factor of the residual at t = T.
        schedule: a name in `refusion.diffusion.schedule.SCHEDULES`.
        long_skip: see `ConditionalNAFNet`.
        local: height and width of the states in training, for the local variant.
        enlarge: factor by which the degraded picture is enlarged first.
        mode: of the enlargement, see `refusion.imaging.resize.Enlarge`.
        partner: settings of the autoencoder of a latent network.
        unsure: contradictions between published settings.
    """

    noise_level: float = 50 / 255
    steps: int = 100
    delta: float = 0.005
    schedule: str = "cosine"
    long_skip: bool = False
    local: tuple[int, ...] = ()
    enlarge: int = 1
    mode: str = "nearest"
    partner: Settings | None = None
    unsure: str = ""


_DEHAZING = {"in_ch": 3, "out_ch": 3, "ch": 8, "ch_mult": [4, 8, 8, 16], "embed_dim": 8}
_BOKEH = {"in_ch": 3, "out_ch": 3, "ch": 64, "ch_mult": [1, 2, 4], "embed_dim": 4}
_GAUSSIAN = Facts(70 / 255, steps=1000, delta=0.04)

REFUSION: Mapping[str, Facts] = {
    "deblurring": Facts(),
    "denoising-sde": _GAUSSIAN,
    "deraining": Facts(),
    "deshadow": Facts(),
    "inpainting": Facts(),
    "latent-bokeh": Facts(partner=_BOKEH),
    "latent-dehazing": Facts(partner=_DEHAZING, long_skip=True),
    "sisr": Facts(enlarge=4),
    "stereo-sr": Facts(enlarge=4),
}
"""Facts of the ConditionalNAFNet of each task."""
IR_SDE: Mapping[str, Facts] = {
    "deblurring": Facts(10 / 255),
    "denoising-sde": replace(_GAUSSIAN, unsure="the options for testing say 75/255 and 100 steps"),
    "deraining": Facts(10 / 255),
    "deshadow": Facts(10 / 255, unsure="the options for testing, of width 32 and depth 5, say 30/255"),
    "inpainting": Facts(30 / 255),
    "latent-dehazing": Facts(partner=_DEHAZING, unsure="no options are published"),
    "sisr": Facts(30 / 255, enlarge=4),
}
"""Facts of the ConditionalUNet of each task."""


PIXELS = {"deblurring", "deraining", "deshadow", "inpainting", "sisr"}
"""Tasks whose networks have the same tensors."""
TABLES = {"ConditionalNAFNet": REFUSION, "ConditionalUNet": IR_SDE}


class Inferred(NamedTuple):
    """A published class, its settings without the task, and the facts of every task whose network has these
    tensors. An autoencoder has no task."""

    cls: str
    settings: dict[str, Any]
    facts: dict[str, Facts]


def infer(state_dict: Mapping[str, Tensor]) -> Inferred:
    """Infer the published class and settings from the names and shapes of tensors.

    `CNAFNetLocal` cannot be distinguished from ConditionalNAFNet, which is returned.

    Raises:
        CheckpointError: a tensor that is needed is missing, or has another number of dimensions.
    """
    if "intro.weight" in state_dict:
        return _infer_nafnet(state_dict)
    if "latent_conv.weight" in state_dict:
        return _infer_autoencoder(state_dict)
    return _infer_unet(state_dict)


def _infer_nafnet(state: Mapping[str, Tensor]) -> Inferred:
    width, inputs, *_ = _shape(state, "intro.weight")
    channels, levels = _shape(state, "ending.weight")[0], _children(state, "downs.")
    settings = {
        "img_channel": channels,
        "width": width,
        "enc_blk_nums": [_children(state, f"encoders.{i}.") for i in range(levels)],
        "middle_blk_num": _children(state, "middle_blks."),
        "dec_blk_nums": [_children(state, f"decoders.{i}.") for i in range(levels)],
    }
    if any(name.endswith("fusion.beta") for name in state):
        tasks = {"stereo-sr"}
    elif "cam_mlp.0.weight" in state:
        tasks = {"latent-bokeh"}
    elif inputs == channels:
        tasks = {"denoising-sde"}
    elif channels != 3:
        tasks = {"latent-dehazing"}
    else:
        tasks = PIXELS
    return Inferred("ConditionalNAFNet", settings, {t: facts for t, facts in REFUSION.items() if t in tasks})


def _infer_unet(state: Mapping[str, Tensor]) -> Inferred:
    width, inputs, *_ = _shape(state, "init_conv.weight")
    channels, levels = _shape(state, "final_conv.weight")[0], _children(state, "downs.")
    multipliers = [_shape(state, f"downs.{i}.3.weight")[0] // width for i in range(levels)]
    doubling = multipliers == [2 ** (i + 1) for i in range(levels)]
    shape = {"depth": levels} if doubling else {"ch_mult": multipliers}
    settings = {"in_nc": channels, "out_nc": channels, "nf": width, **shape}
    if inputs == channels:
        tasks = {"denoising-sde"}
    elif channels != 3:
        tasks = {"latent-dehazing"}
    else:
        tasks = PIXELS
    facts = {task: published for task, published in IR_SDE.items() if task in tasks}
    if "deshadow" in facts and (width, shape) == (32, {"depth": 5}):
        other = "the options for training, of width 64 and depth 4, say 10/255"
        facts["deshadow"] = Facts(30 / 255, unsure=other)
    return Inferred("ConditionalUNet", settings, facts)


def _infer_autoencoder(state: Mapping[str, Tensor]) -> Inferred:
    width, inputs, *_ = _shape(state, "init_conv.weight")
    levels = _children(state, "encoder.")
    settings = {
        "in_ch": inputs,
        "out_ch": _shape(state, "final_conv.weight")[0],
        "ch": width,
        "ch_mult": [_shape(state, f"encoder.{i}.3.weight")[0] // width for i in range(levels)],
        "embed_dim": _shape(state, "latent_conv.weight")[0],
    }
    return Inferred("UNet", settings, {})


def _children(state: Mapping[str, Tensor], prefix: str) -> int:
    """Count the parts whose name starts with a prefix."""
    return len({name.removeprefix(prefix).split(".")[0] for name in state if name.startswith(prefix)})


def _shape(state: Mapping[str, Tensor], name: str) -> torch.Size:
    """Return the shape of the weight of a convolution."""
    if name not in state:
        raise CheckpointError(f"{name} is missing; these are not the weights of a published network")
    if state[name].ndim != 4 or 0 in state[name].shape:
        raise CheckpointError(f"{name} is {tuple(state[name].shape)}, and a convolution's has four sides")
    return state[name].shape
