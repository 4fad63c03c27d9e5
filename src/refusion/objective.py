"""What training minimises."""

from collections.abc import Callable
from typing import Literal

from jaxtyping import Float, Int
from torch import Tensor

from refusion.prediction import Prediction
from refusion.sde import Batch, MeanRevertingSDE

Compare = Literal["output", "reverse-mean", "picture"]


def diffusion_loss(
    network: Callable[[Batch, Batch, Tensor], Tensor],
    sde: MeanRevertingSDE,
    prediction: Prediction,
    x0: Batch,
    mu: Batch,
    t: Int[Tensor, " b"],
    noise: Batch,
    compare: Compare = "output",
    decode: Callable[[Batch], Tensor] = lambda state: state,
) -> Float[Tensor, ""]:
    """Mean absolute error of denoising x_t at the times t = 1 ... T.

    Args:
        compare: "output" compares the network's output with its target. "reverse-mean" compares the
            means of the reverse step t -> t - 1: with a `ReverseStep` prediction that is the papers'
            maximum-likelihood objective (IR-SDE), with any other its form without bias.
            "picture" compares the decoded estimate of x0 with the decoded x0.
        decode: what turns a state into a picture.
    """
    x_t = sde.perturb(x0, mu, t, noise)
    output = network(x_t, mu, t.to(x_t.dtype)).to(x_t.dtype)
    if compare == "output":
        return (output - prediction.target(sde, x0, mu, t, noise)).abs().mean()
    estimate = prediction.clean(output, sde, x_t, mu, t)
    if compare == "picture":
        return (decode(estimate) - decode(x0)).abs().mean()
    reverse_mean = sde.posterior_mean(x_t, estimate, mu, t, t - 1)
    return (reverse_mean - sde.posterior_mean(x_t, x0, mu, t, t - 1)).abs().mean()
