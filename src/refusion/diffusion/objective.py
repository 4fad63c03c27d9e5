"""Training losses: of the diffusion network, and of a codec with weights."""

from collections.abc import Callable
from typing import Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor

from refusion.diffusion.prediction import Prediction
from refusion.diffusion.sde import SDE, Batch

Compare = Literal["output", "reverse-mean", "picture"]
Loss = Literal["l1", "l2", "psnr"]
Features = tuple[Tensor, ...]

LEAST_SQUARED = 1e-6
"""Mean squared error, that of 60 dB, far below which the "psnr" loss of a sample no longer falls."""


def diffusion_loss(
    network: Callable[[Batch, Batch, Tensor], Tensor],
    sde: SDE,
    prediction: Prediction,
    x0: Batch,
    mu: Batch,
    t: Int[Tensor, " b"],
    noise: Batch,
    compare: Compare = "output",
    decode: Callable[[Batch], Tensor] = lambda state: state,
    picture: Float[Tensor, "b picture_c picture_h picture_w"] | None = None,
    loss: Loss = "l1",
    weight: Tensor | None = None,
) -> Float[Tensor, ""]:
    """Return the mean error of denoising x_t at the times t = 1 ... T.

    Args:
        compare: "output" compares the network's output with its target. "reverse-mean" compares the
            means of the reverse step t -> t - 1: with a `ReverseStep` prediction that is the papers'
            maximum-likelihood objective (IR-SDE), with any other its form without bias.
            "picture" compares the decoded estimate of x0 with the clean picture.
        decode: maps a state to a picture.
        picture: the clean picture; by default x0, where states are pictures.
        loss: "l1", the absolute error, is least at the median of the possible clean pictures; "l2", the
            squared error, at their mean. Where most samples need almost no change, the median is no change
            at all. "psnr" is log10 of each sample's squared error, the PSNR in bels with the sign changed
            (Chen et al. 2022, NAFNet): samples with large and with small errors count alike.
        weight: of the error at each position of what is compared, as 1 in holes and 0 elsewhere; by
            default 1. Its shape broadcasts.
    """
    x_t = sde.perturb(x0, mu, t, noise)
    output = network(x_t, mu, t.to(x_t.dtype)).to(x_t.dtype)
    if compare == "output":
        return mean_error(output, prediction.target(sde, x0, mu, t, noise), loss, weight)
    estimate = prediction.clean(output, sde, x_t, mu, t)
    if compare == "picture":
        return mean_error(decode(estimate), x0 if picture is None else picture, loss, weight)
    reverse_mean = sde.posterior_mean(x_t, estimate, mu, t, t - 1)
    return mean_error(reverse_mean, sde.posterior_mean(x_t, x0, mu, t, t - 1), loss, weight)


def mean_error(output: Tensor, target: Tensor, loss: Loss, weight: Tensor | None) -> Float[Tensor, ""]:
    """Return the mean error of a prediction, see `diffusion_loss`."""
    error = (output - target).abs() if loss == "l1" else (output - target).square()
    if weight is not None:
        error = weight * error
    if loss != "psnr":
        return error.mean()
    return (error.flatten(1).mean(1) + LEAST_SQUARED).log10().mean()


def replacing_loss(
    encode: Callable[[Tensor], tuple[Tensor, Features, tuple[int, int]]],
    decode: Callable[[Tensor, Features, tuple[int, int]], Tensor],
    lq: Batch,
    gt: Batch,
    drop: Bool[Tensor, " b"],
    replacing: float,
    regular: float,
) -> Float[Tensor, ""]:
    """Return the training loss of a codec with weights: reconstruction, latent replacing, regularisation.

    L1(D(L_lq, H_lq), lq) + replacing L1(D(L_gt, H_lq), gt) + regular (L1(mean L, mean lq) +
    L1(std L, std lq / 2)), where (L, H) = E(picture) are latent and features (Refusion, section 3.4).
    The second term makes the decoder take the difference of degraded and clean from the latent.

    Args:
        drop: pictures whose features are zero in the second term, so that the latent alone counts.
        replacing, regular: weights of the second and the third term.
    """
    latent_lq, features, size = encode(lq)
    latent_gt, _, _ = encode(gt)
    rebuilt = decode(latent_lq, features, size)
    kept = tuple(h * ~drop[:, None, None, None] for h in features)
    replaced = decode(latent_gt, kept, size)
    moments = (latent_lq.mean() - lq.mean()).abs() + (latent_lq.std() - lq.std() / 2).abs()
    return (rebuilt - lq).abs().mean() + replacing * (replaced - gt).abs().mean() + regular * moments
