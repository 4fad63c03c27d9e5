"""The mean stage: a regression network that estimates the mean of the clean pictures of a degraded one."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from refusion.diffusion.sde import SDE, Batch
from refusion.nn.network import Network
from refusion.restoring.codec import Codec


def estimated_mean(
    network: Network,
    sde: SDE,
    codec: Codec,
    mu: Batch,
    guides: Float[Tensor, "b guides picture_h picture_w"],
    condition: Sequence[float] | Float[Tensor, "b conditions"] = (),
) -> Batch:
    """Return mu plus the correction that the network predicts at t = T where the noise is 0.

    That is a step of a model with clean prediction, so such a model can be a mean stage as it is.

    Args:
        network: the mean stage.
        sde: the process whose mu the estimate is to replace.
        codec: of the states; the estimate stays within its bounds.
        mu: states of the degraded pictures.
        guides: of each picture, as many as the network takes.
        condition: numbers for the network, for all pictures or for each.
    """
    count = len(mu)
    t = torch.full((count,), float(sde.steps), device=mu.device)
    conditions = torch.as_tensor(condition, dtype=torch.float32, device=mu.device).expand(count, -1)
    output = network(mu, codec.seen(network, mu, guides, mu), t, network.embed(t, conditions))
    mean = mu + output.to(mu.dtype)
    return mean.clamp(*codec.bounds) if codec.bounds else mean
