"""Published networks, computed by ours under their classes, settings and keys."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from refusion.errors import CheckpointError, first_line, hint
from refusion.nn.nafnet import ConditionalNAFNet
from refusion.nn.network import Network
from refusion.nn.unet import ConditionalUNet
from refusion.published.facts import REFUSION, Settings
from refusion.restoring.codec import Pictures, States
from refusion.restoring.latent_unet import LatentUNet

Shape = tuple[int, ...]


class Denoiser(nn.Module):
    """One of our networks with the signature of the published one.

    The channels of the views of a scene are concatenated, as published networks expect them.
    """

    network: Network

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(
        self,
        x_t: Float[Tensor, "b c h w"],
        mu: Float[Tensor, "b c h w"] | None,
        t: float | Shaped[Tensor, ""] | Shaped[Tensor, "#b"],
        lens: Float[Tensor, "b 3"] | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """Return the output at training time t, which is one for all pictures or one for each.

        Args:
            mu: the degraded state; None for a network that does not see it.
            lens: see `refusion.imaging.lens.condition`, for a network of bokeh.
        """
        batch, channels, height, width = x_t.shape
        views = self.network.num_views
        scenes = (batch * views, channels // views, height, width)
        times = torch.as_tensor(t, dtype=torch.float32, device=x_t.device).expand(batch)
        times = times.repeat_interleave(views)
        embedding = self.network.embed(times, lens)
        mean = x_t if mu is None else mu
        output: Tensor = self.network(x_t.reshape(scenes), mean.reshape(scenes), times, embedding)
        return output.reshape(x_t.shape)


class Hidden(tuple[Tensor, ...]):
    """The features of a picture, with its `size`."""

    size: tuple[int, int]

    @classmethod
    def of(cls, features: Sequence[Tensor], size: tuple[int, int]) -> "Hidden":
        """Return features with a size."""
        hidden = cls(features)
        hidden.size = size
        return hidden


class Autoencoder(nn.Module):
    """A `LatentUNet` with the signature of the published one: latents are not normalised."""

    def __init__(self, codec: LatentUNet) -> None:
        super().__init__()
        self.codec = codec

    def encode(self, image: Pictures) -> tuple[States, Hidden]:
        """Return the latent, and the features for `decode`."""
        latent, features = self.codec.latent(image)
        return latent, Hidden.of(features, (image.shape[-2], image.shape[-1]))

    def decode(self, latent: States, hidden: Sequence[Tensor]) -> Pictures:
        """Decode a latent with the features of its or another picture, in the size of the latter.

        If the features are plain tensors without a size, the result keeps its padding.
        """
        height, width = hidden.size if isinstance(hidden, Hidden) else hidden[0].shape[-2:]
        return self.codec.picture(latent, tuple(hidden), (height, width))

    def forward(self, image: Pictures) -> Pictures:
        """Encode and decode a picture."""
        return self.decode(*self.encode(image))


def from_published(cls: str, settings: Settings) -> tuple[type[nn.Module], dict[str, Any]]:
    """Return our class for a published one, and its arguments.

    Args:
        cls: ConditionalNAFNet, CNAFNetLocal, ConditionalUNet or UNet.
        settings: of the published class, and `task`, a name in `REFUSION`; an autoencoder has no task.
            `train_size` of CNAFNetLocal is (n, c, h, w) of the states in training. `long_skip`, if present,
            replaces that of the task.

    Raises:
        CheckpointError: the class or task is unknown, or a setting is missing.
    """
    if cls not in _KINDS:
        raise CheckpointError(f"class {cls}{hint(cls, _KINDS)}: there are {', '.join(_KINDS)}")
    return _KINDS[cls].cls, _KINDS[cls].arguments(settings)


def shapes(cls: str, settings: Settings) -> dict[str, Shape]:
    """Return the names and shapes of the tensors of a published network, in published order.

    Raises:
        CheckpointError: see `from_published`; or our class refuses a setting.
    """
    network, names = _unfilled(cls, settings)
    return _shapes(network, names)


def build(cls: str, settings: Settings, state_dict: Mapping[str, Tensor]) -> Denoiser | Autoencoder:
    """Build a published network with weights, in float32 and if possible in the memory of `state_dict`.

    Our network is the attribute `network` of the result, or `codec` of an autoencoder.

    Args:
        cls, settings: see `from_published`.
        state_dict: the weights under published names.

    Raises:
        CheckpointError: see `shapes`; or a tensor does not fit; the message names the first one.
    """
    network, names = _unfilled(cls, settings)
    expected = _shapes(network, names)
    for name in [*expected, *state_dict]:
        want = expected.get(name, "no such tensor")
        have = tuple(state_dict[name].shape) if name in state_dict else "no such tensor"
        if want != have:
            raise CheckpointError(f"{name} is {have}, and {cls} of these settings has {want}")
    loaded = {our: state_dict[name].float() for name, our in names.items()}
    device = next(iter(loaded.values())).device
    state = network.state_dict()
    own = {name: torch.full_like(state[name], x, device=device) for name, x in _OWN.items() if name in state}
    network.load_state_dict({**loaded, **own}, assign=True)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return _KINDS[cls].call(network.eval())


def to_published(network: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of one of our networks under published names, in published order.

    Raises:
        CheckpointError: the class of the network was not published.
    """
    names = {kind.cls: kind.names for kind in _KINDS.values()}
    if type(network) not in names:
        published = ", ".join(kind.__name__ for kind in names)
        raise CheckpointError(f"{type(network).__name__} was never published; {published} were")
    state = network.state_dict()
    return {name: state[our].contiguous() for name, our in names[type(network)](network).items()}


def _unfilled(cls: str, settings: Settings) -> tuple[nn.Module, dict[str, str]]:
    """Return our network on "meta", and our names of its tensors by published name, in published order."""
    kind, arguments = from_published(cls, settings)
    try:
        with torch.device("meta"):
            network = kind(**arguments)
    except (ValueError, TypeError, RuntimeError) as error:  # RuntimeError for sizes that torch cannot hold
        raise CheckpointError(f"{cls}: {first_line(error)}") from error
    return network, _KINDS[cls].names(network)


def _shapes(network: nn.Module, names: Mapping[str, str]) -> dict[str, Shape]:
    state = network.state_dict()
    return {name: tuple(state[our].shape) for name, our in names.items()}


def _setting(settings: Settings, name: str) -> Any:
    if name not in settings:
        raise CheckpointError(f"the setting {name} is missing; give it, or the class that has none")
    return settings[name]


def _task(settings: Settings) -> str:
    task: str = _setting(settings, "task")
    if task not in REFUSION:
        raise CheckpointError(f"task {task}{hint(task, REFUSION)}: there are {', '.join(REFUSION)}")
    return task


def _nafnet(settings: Settings) -> dict[str, Any]:
    task = _task(settings)
    return {
        "channels": settings.get("img_channel", 3),
        "width": _setting(settings, "width"),
        "encoder": _setting(settings, "enc_blk_nums"),
        "middle": _setting(settings, "middle_blk_num"),
        "decoder": _setting(settings, "dec_blk_nums"),
        "long_skip": settings.get("long_skip", REFUSION[task].long_skip),
        "conditions": 3 if task == "latent-bokeh" else 0,
        "stereo": task == "stereo-sr",
        "downscale": 4,
        "conditional": task != "denoising-sde",
        "guides": 0,
        "sees_lq": False,
        "local": tuple(settings.get("train_size", ())[-2:]),
    }


def _local_nafnet(settings: Settings) -> dict[str, Any]:
    _setting(settings, "train_size")
    return _nafnet({**settings, "task": "latent-dehazing"})


def _unet(settings: Settings) -> dict[str, Any]:
    denoises = _task(settings) == "denoising-sde"
    levels = settings.get("ch_mult")
    return {
        "channels": _setting(settings, "in_nc"),
        "width": _setting(settings, "nf"),
        "multipliers": levels or [2 ** (i + 1) for i in range(_setting(settings, "depth"))],
        "conditional": not denoises,
        "softmax": denoises,
    }


def _autoencoder(settings: Settings) -> dict[str, Any]:
    return {
        "latent_channels": _setting(settings, "embed_dim"),
        "width": _setting(settings, "ch"),
        "multipliers": _setting(settings, "ch_mult"),
        "unshuffle": 1,
        "skips": None,
        "attention": True,
    }


_OWN = {"latent_mean": 0.0, "latent_std": 1.0}
"""Buffers that published autoencoders do not have, and values without effect on latents."""
AS_THEY_ARE = {"latent_mean": 0.5, "latent_std": 0.25}
"""Values of these buffers with which the states of a `LatentUNet` are its latents."""


def _unet_names(network: nn.Module) -> dict[str, str]:
    """Return our names by published name: they are equal."""
    return {name: name for name in network.state_dict() if name not in _OWN}


_ORDER = (
    *("beta", "gamma", "mlp", "time_mlp", "cam_mlp", "intro", "ending", "encoders", "decoders"),
    *("middle_blks", "ups", "downs", "conv1", "conv2", "conv3", "sca", "conv4", "conv5", "norm1", "norm2"),
    *("fusion", "norm_l", "norm_r", "l_proj1", "r_proj1", "l_proj2", "r_proj2", "weight", "bias", "g"),
)
"""Order of the parts of the keys of a published ConditionalNAFNet."""


def _nafnet_names(network: ConditionalNAFNet) -> dict[str, str]:
    """Return our names by published name, which differ for bokeh only.

    There the sinusoids have no layer number, and the `mlp` of blocks is called `time_mlp`.
    """

    def published(name: str) -> str:
        if network.num_conditions and name.startswith("time_mlp."):
            _, layer, kind = name.split(".")
            return f"time_mlp.{int(layer) - 1}.{kind}"
        return name.replace(".mlp.", ".time_mlp.") if network.num_conditions else name

    def rank(name: str) -> list[int]:
        return [int(part) if part.isdigit() else _ORDER.index(part) for part in name.split(".")]

    names = {published(name): name for name in network.state_dict()}
    return {name: names[name] for name in sorted(names, key=rank)}


class _Kind(NamedTuple):
    """Our class for a published one: its arguments, the names of its tensors, and its wrapper."""

    cls: type[nn.Module]
    arguments: Callable[[Settings], dict[str, Any]]
    names: Callable[[Any], dict[str, str]]
    call: Callable[[Any], Denoiser | Autoencoder]


_KINDS = {
    "ConditionalNAFNet": _Kind(ConditionalNAFNet, _nafnet, _nafnet_names, Denoiser),
    "CNAFNetLocal": _Kind(ConditionalNAFNet, _local_nafnet, _nafnet_names, Denoiser),
    "ConditionalUNet": _Kind(ConditionalUNet, _unet, _unet_names, Denoiser),
    "UNet": _Kind(LatentUNet, _autoencoder, _unet_names, Autoencoder),
}
