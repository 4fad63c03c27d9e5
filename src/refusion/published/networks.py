"""Published networks made of ours, which compute what they compute."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from refusion.codec import Pictures, States
from refusion.errors import CheckpointError, first_line, hint
from refusion.nn import ConditionalNAFNet, ConditionalUNet, LatentUNet
from refusion.published.facts import REFUSION, Settings
from refusion.tiling import views

Shape = tuple[int, ...]


class Denoiser(nn.Module):
    """One of our networks, called as the published one.

    The channels of the views of a scene follow each other, as published networks take them.
    """

    network: Any

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.views = network, views(network)

    def forward(
        self,
        x_t: Float[Tensor, "b c h w"],
        mu: Float[Tensor, "b c h w"] | None,
        t: float | Tensor,
        lens: Float[Tensor, "b 3"] | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """The output at training time t, one for all or one for each picture.

        Args:
            mu: None for a network that does not see it.
            lens: see `refusion.lens.condition`, for a network of bokeh.
        """
        batch, channels, height, width = x_t.shape
        scenes = (batch * self.views, channels // self.views, height, width)
        times = torch.as_tensor(t, dtype=torch.float32, device=x_t.device).expand(batch)
        times = times.repeat_interleave(self.views)
        embedding = self.network.embed(times, *([] if lens is None else [lens]))
        states = (x.reshape(scenes) for x in (x_t, x_t if mu is None else mu))
        output: Tensor = self.network(*states, times, embedding)
        return output.reshape(x_t.shape)


class Hidden(tuple[Tensor, ...]):
    """The features of a picture, and its `size`."""

    size: tuple[int, int]

    @classmethod
    def of(cls, features: Sequence[Tensor], size: tuple[int, int]) -> "Hidden":
        hidden = cls(features)
        hidden.size = size
        return hidden


class Autoencoder(nn.Module):
    """A `LatentUNet`, called as the published one: latents are not normalised."""

    def __init__(self, codec: LatentUNet) -> None:
        super().__init__()
        self.codec = codec

    def encode(self, image: Pictures) -> tuple[States, Hidden]:
        """The latent and the features that `decode` takes."""
        latent, features = self.codec.latent(image)
        return latent, Hidden.of(features, (image.shape[-2], image.shape[-1]))

    def decode(self, latent: States, hidden: Sequence[Tensor]) -> Pictures:
        """The picture of a latent and the features of this or another picture, in the latter's size.

        Where plain tensors do not tell the size, the padding stays.
        """
        height, width = hidden.size if isinstance(hidden, Hidden) else hidden[0].shape[-2:]
        return self.codec.picture(latent, tuple(hidden), (height, width))

    def forward(self, image: Pictures) -> Pictures:
        """There and back."""
        return self.decode(*self.encode(image))


def ours(cls: str, settings: Settings) -> tuple[type[nn.Module], dict[str, Any]]:
    """Our class for a published one, and its arguments.

    Args:
        cls: ConditionalNAFNet, CNAFNetLocal, ConditionalUNet or UNet.
        settings: the published class's, and `task`, a name in `REFUSION`; an autoencoder needs none.
            `train_size` of CNAFNetLocal is (n, c, h, w) of the states in training. `long_skip`, where it
            is said, replaces that of the task.

    Raises:
        CheckpointError: an unknown class or task, or a setting is missing.
    """
    if cls not in _KINDS:
        raise CheckpointError(f"class {cls}{hint(cls, _KINDS)}: there are {', '.join(_KINDS)}")
    return _KINDS[cls].ours, _KINDS[cls].arguments(settings)


def shapes(cls: str, settings: Settings) -> dict[str, Shape]:
    """Names and shapes of a published network's tensors, in published order.

    Raises:
        CheckpointError: see `ours`; or a setting is refused by our class.
    """
    network, names = _unfilled(cls, settings)
    return _shapes(network, names)


def build(cls: str, settings: Settings, state_dict: Mapping[str, Tensor]) -> Denoiser | Autoencoder:
    """A published network with its weights, in float32 and where possible in the memory of the given ones.

    Our network in it is its `network`, or an autoencoder's `codec`.

    Args:
        cls, settings: see `ours`.

    Raises:
        CheckpointError: see `shapes`; or the tensors do not fit, naming the first one that does not.
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


def theirs(network: nn.Module) -> dict[str, Tensor]:
    """The tensors of one of our networks under published names, in published order.

    Raises:
        CheckpointError: no published class is made of it.
    """
    names = {kind.ours: kind.names for kind in _KINDS.values()}
    if type(network) not in names:
        known = ", ".join(kind.__name__ for kind in names)
        raise CheckpointError(f"{type(network).__name__} was never published; {known} were")
    state = network.state_dict()
    return {name: state[our].contiguous() for name, our in names[type(network)](network).items()}


def _unfilled(cls: str, settings: Settings) -> tuple[nn.Module, dict[str, str]]:
    """Our network without memory, and our names of its tensors by published ones in published order."""
    kind, arguments = ours(cls, settings)
    try:
        with torch.device("meta"):
            network = kind(**arguments)
    except (ValueError, TypeError, RuntimeError) as error:  # the latter of sizes that torch cannot hold
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
        "shrink": 4,
        "conditional": task != "denoising-sde",
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
"""Buffers that published autoencoders do not have."""
AS_THEY_ARE = {"latent_mean": 0.5, "latent_std": 0.25}
"""With these the states of a `LatentUNet` are its latents."""


def _unet_names(network: nn.Module) -> dict[str, str]:
    """Our names are the published ones."""
    return {name: name for name in network.state_dict() if name not in _OWN}


_ORDER = (
    *("beta", "gamma", "mlp", "time_mlp", "cam_mlp", "intro", "ending", "encoders", "decoders"),
    *("middle_blks", "ups", "downs", "conv1", "conv2", "conv3", "sca", "conv4", "conv5", "norm1", "norm2"),
    *("fusion", "norm_l", "norm_r", "l_proj1", "r_proj1", "l_proj2", "r_proj2", "weight", "bias", "g"),
)
"""Of the parts of a published ConditionalNAFNet's keys."""


def _nafnet_names(network: ConditionalNAFNet) -> dict[str, str]:
    """Our names differ for bokeh, where no layer is counted for the sinusoids and blocks have two `mlp`."""

    def published(name: str) -> str:
        if network.conditions and name.startswith("time_mlp."):
            _, layer, kind = name.split(".")
            return f"time_mlp.{int(layer) - 1}.{kind}"
        return name.replace(".mlp.", ".time_mlp.") if network.conditions else name

    def rank(name: str) -> list[int]:
        return [int(part) if part.isdigit() else _ORDER.index(part) for part in name.split(".")]

    names = {published(name): name for name in network.state_dict()}
    return {name: names[name] for name in sorted(names, key=rank)}


class _Kind(NamedTuple):
    """How a published class is made of ours."""

    ours: type[nn.Module]
    arguments: Callable[[Settings], dict[str, Any]]
    names: Callable[[Any], dict[str, str]]
    call: Callable[[Any], Denoiser | Autoencoder]


_KINDS = {
    "ConditionalNAFNet": _Kind(ConditionalNAFNet, _nafnet, _nafnet_names, Denoiser),
    "CNAFNetLocal": _Kind(ConditionalNAFNet, _local_nafnet, _nafnet_names, Denoiser),
    "ConditionalUNet": _Kind(ConditionalUNet, _unet, _unet_names, Denoiser),
    "UNet": _Kind(LatentUNet, _autoencoder, _unet_names, Autoencoder),
}
