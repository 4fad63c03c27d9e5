"""Losses vanish at the truth, equal the published objective, and train at every time."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from refusion.diffusion.objective import Compare, Features, Loss, diffusion_loss, replacing_loss
from refusion.diffusion.prediction import PREDICTIONS, Clean, Noise, Prediction, ReverseStep
from refusion.diffusion.schedule import SCHEDULES
from refusion.diffusion.sde import MeanRevertingSDE

LEVEL = 50 / 255
COMPARES: list[Compare] = ["output", "reverse-mean"]
LOSSES: list[Loss] = ["l1", "l2", "psnr"]
EVERY_TIME = torch.tensor([1, 2, 50, 99, 100])


def pictures(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    x0, mu = torch.rand(2, len(EVERY_TIME), 3, 6, 5, dtype=dtype)
    return x0, mu, torch.randn_like(x0)


def always(output: Tensor) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    return lambda x_t, mu, t: output


@pytest.mark.parametrize("compare", COMPARES)
@pytest.mark.parametrize("kind", PREDICTIONS)
def test_the_loss_is_0_at_the_target_and_only_there(
    sde: MeanRevertingSDE, kind: str, compare: Compare
) -> None:
    prediction, (x0, mu, noise) = PREDICTIONS[kind], pictures()
    target = prediction.target(sde, x0, mu, EVERY_TIME, noise)

    def loss(output: Tensor) -> float:
        return float(diffusion_loss(always(output), sde, prediction, x0, mu, EVERY_TIME, noise, compare))

    assert loss(target) == pytest.approx(0, abs=1e-12)
    for i in range(len(EVERY_TIME)):  # also when only the picture at one of the times is wrong
        off = target.clone()
        off[i] += 0.1
        assert loss(off) > 1e-7


def test_the_network_sees_the_state_the_degraded_picture_and_the_time(
    sde: MeanRevertingSDE,
) -> None:
    x0, mu, noise = pictures(torch.float32)
    seen: list[Tensor] = []

    def network(x_t: Tensor, given: Tensor, t: Tensor) -> Tensor:
        seen.extend([x_t, given, t])
        return torch.zeros_like(x_t)

    diffusion_loss(network, sde, Noise(), x0, mu, EVERY_TIME, noise)
    x_t, given, t = seen
    assert torch.equal(x_t, sde.perturb(x0, mu, EVERY_TIME, noise))
    assert torch.equal(given, mu)
    assert t.dtype == torch.float32
    assert torch.equal(t, EVERY_TIME.float())


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("t", [1, 2, 50, 100])
def test_reverse_mean_of_a_reverse_step_is_the_published_objective(
    make_sde: Callable[..., MeanRevertingSDE], name: str, t: int
) -> None:
    """L1 between the Euler mean and the optimal reverse state, written out from the tables."""
    x0, mu, noise = pictures()
    output = torch.randn_like(x0)
    theta = SCHEDULES[name](torch.arange(101, dtype=torch.float64))
    integral = theta.cumsum(0) - theta[0]
    dt = -math.log(0.005) / integral[-1]
    rate, now, before = theta[t] * dt, integral[t] * dt, integral[t - 1] * dt
    s_t = LEVEL * torch.sqrt(1 - torch.exp(-2 * now))
    y = torch.exp(-now) * (x0 - mu) + s_t * noise
    euler = (1 + rate) * y - 2 * LEVEL**2 * rate / s_t * output
    whole = 1 - torch.exp(-2 * now)
    optimum = torch.exp(-rate) * (1 - torch.exp(-2 * before)) / whole * y
    optimum = optimum + torch.exp(-before) * (1 - torch.exp(-2 * rate)) / whole * (x0 - mu)
    times = torch.full((len(x0),), t)
    loss = diffusion_loss(always(output), make_sde(name), ReverseStep(), x0, mu, times, noise, "reverse-mean")
    assert float(loss) == pytest.approx(float((euler - optimum).abs().mean()), rel=1e-7)


def test_published_objective_against_published_numbers(
    sde: MeanRevertingSDE, golden: dict[str, Tensor]
) -> None:
    """The recorded Euler mean and optimum start from the same state: x0 is what makes it so."""
    x0, mu, xt, output = (golden[key] for key in ("x0", "mu", "xt", "noise"))
    for i, t in enumerate(golden["times"].tolist()):
        euler, optimum = (
            golden[f"cosine_s50_e0.005/{key}"][i] for key in ("reverse_sde_step_mean", "reverse_optimum_step")
        )
        noise = sde.noise_from_clean(xt, x0, mu, t)
        times = torch.full((2,), t)
        loss = diffusion_loss(always(output), sde, ReverseStep(), x0, mu, times, noise, "reverse-mean")
        theirs = float((euler - optimum).abs().mean())
        assert float(loss) == pytest.approx(theirs, abs=3e-4 if t <= 2 else 1e-5)


def test_only_the_published_objective_has_its_minimum_beside_the_noise(
    sde: MeanRevertingSDE,
) -> None:
    x0, mu, noise = pictures()

    def loss(prediction: Prediction) -> float:
        return float(
            diffusion_loss(always(noise), sde, prediction, x0, mu, EVERY_TIME, noise, "reverse-mean")
        )

    assert loss(Noise()) < 1e-12
    assert loss(ReverseStep()) > 1e-4


def test_output_and_reverse_mean_differ_by_a_weight_of_the_time_alone(
    sde: MeanRevertingSDE,
) -> None:
    x0, mu, noise = pictures()
    output = torch.randn_like(x0)
    for t in EVERY_TIME.tolist():
        times = torch.full((len(x0),), t)
        w_0 = float(sde.posterior(t, t - 1, mu)[1])
        plain, reverse = (
            float(diffusion_loss(always(output), sde, Clean(), x0, mu, times, noise, compare))
            for compare in COMPARES
        )
        assert plain == pytest.approx(float((output - (x0 - mu)).abs().mean()))
        assert reverse == pytest.approx(w_0 * plain)
        noisy = float(diffusion_loss(always(output), sde, Noise(), x0, mu, times, noise, "reverse-mean"))
        weight = w_0 * float(sde.stds[t] / sde.alphas[t])
        assert noisy == pytest.approx(weight * float((output - noise).abs().mean()))


@pytest.mark.parametrize("compare", [*COMPARES, "picture"])
def test_l1_asks_for_the_median_and_l2_for_the_mean(sde: MeanRevertingSDE, compare: Compare) -> None:
    """Of five pictures of which one is to be changed: where is the best output that is the same for all?"""
    mu, noise = torch.zeros(2, 5, 1, 1, 1, dtype=torch.float64)
    x0, times = mu.clone(), torch.full((5,), 50)
    x0[4] = 0.5
    grid = [i / 100 for i in range(-10, 61)]
    best = {}
    for loss in LOSSES:
        values = [
            diffusion_loss(
                always(torch.full_like(mu, output)), sde, Clean(), x0, mu, times, noise, compare, loss=loss
            )
            for output in grid
        ]
        best[loss] = grid[int(torch.stack(values).argmin())]
    assert best == {"l1": 0, "l2": 0.1, "psnr": 0}


@pytest.mark.parametrize("compare", COMPARES)
def test_the_logarithm_of_the_error_is_the_psnr_of_each_sample(
    sde: MeanRevertingSDE, compare: Compare
) -> None:
    """Errors of 1/10 and 1/100 are 20 dB and 40 dB, 3 bels in the mean; and both pull alike."""
    x0, mu = torch.rand(2, 2, 3, 4, 6, dtype=torch.float64)
    noise, t = torch.randn_like(x0), torch.tensor([1, 1])
    wrong = torch.tensor([0.1, 0.01], dtype=torch.float64)[:, None, None, None].requires_grad_()
    output = x0 - mu + wrong * torch.ones_like(x0)
    loss = diffusion_loss(always(output), sde, Clean(), x0, mu, t, noise, compare, loss="psnr")
    assert loss.item() == pytest.approx(-3, abs=0.01)
    loss.backward()
    assert wrong.grad is not None
    large, small = (wrong.grad * wrong).flatten().tolist()
    assert small == pytest.approx(large, rel=0.02)


class Scale(nn.Module):
    """The smallest network that can be trained."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.3))

    def forward(self, x_t: Tensor, mu: Tensor, t: Tensor) -> Tensor:
        return self.weight * (x_t - mu) + 0.01 * t[:, None, None, None]


@pytest.mark.parametrize("t", [1, 2, 50, 100])
@pytest.mark.parametrize("compare", COMPARES)
@pytest.mark.parametrize("kind", PREDICTIONS)
def test_gradients_are_finite_and_alive_at_both_ends(
    sde: MeanRevertingSDE, kind: str, compare: Compare, t: int
) -> None:
    (x0, mu, noise), network = pictures(torch.float32), Scale()
    times = torch.full((len(x0),), t)
    loss = diffusion_loss(network, sde, PREDICTIONS[kind], x0, mu, times, noise, compare)
    loss.backward()
    gradient = network.weight.grad
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert loss > 0
    assert gradient is not None
    assert gradient.isfinite()
    assert gradient != 0


@pytest.mark.parametrize("compare", COMPARES)
def test_an_output_in_bfloat16_gives_a_loss_in_float32(sde: MeanRevertingSDE, compare: Compare) -> None:
    x0, mu, noise = pictures(torch.float32)
    half = always(noise.bfloat16())
    loss = diffusion_loss(half, sde, Noise(), x0, mu, EVERY_TIME, noise, compare)
    assert loss.dtype == torch.float32
    assert 0 < float(loss) < 0.01


# ---- the codec's loss: codecs are an encoder and a decoder, pictures are 4 of 3 x 6 x 5

SIZE = (6, 5)
NONE = torch.zeros(4, dtype=torch.bool)
Encoded = tuple[Tensor, Features, tuple[int, int]]


def pair() -> tuple[Tensor, Tensor]:
    lq, gt = torch.rand(2, 4, 3, *SIZE, dtype=torch.float64)
    return lq, gt


def perfect(picture: Tensor) -> Encoded:
    """The state is the picture, nothing goes around it."""
    return picture, (), SIZE


def passed_on(picture: Tensor) -> Encoded:
    """The picture goes around the state."""
    return torch.full_like(picture, 0.5), (picture,), SIZE


def state_alone(state: Tensor, features: Features, size: tuple[int, int]) -> Tensor:
    return state


def sum_of_all(state: Tensor, features: Features, size: tuple[int, int]) -> Tensor:
    return state + sum(features)


def skips_alone(state: Tensor, features: Features, size: tuple[int, int]) -> Tensor:
    return features[0]


def test_a_perfect_codec_has_no_loss() -> None:
    lq, gt = pair()
    for drop in (NONE, ~NONE):
        assert float(replacing_loss(perfect, state_alone, lq, gt, drop, 1.0, 0.0)) == 0


def test_a_decoder_that_ignores_the_state_pays_for_what_it_does_not_restore() -> None:
    """It reconstructs perfectly, and still its loss is the distance of the degraded to the clean."""
    lq, gt = pair()
    assert float(replacing_loss(passed_on, skips_alone, lq, gt, NONE, 0.0, 0.0)) == 0
    for weight in (0.5, 1.0):
        loss = float(replacing_loss(passed_on, skips_alone, lq, gt, NONE, weight, 0.0))
        assert loss == pytest.approx(weight * float((lq - gt).abs().mean()))
        assert loss > 0.1
    assert float(replacing_loss(passed_on, skips_alone, lq, lq, NONE, 1.0, 0.0)) == 0


def test_states_are_tame_when_their_moments_are_the_pictures_own() -> None:
    lq, gt = pair()
    tame = 0.5 * (lq - lq.mean()) + lq.mean()

    def loss(state: Tensor) -> float:
        def encode(picture: Tensor) -> Encoded:
            return (state if picture is lq else gt), (), SIZE

        def decode(given: Tensor, features: Features, size: tuple[int, int]) -> Tensor:
            return lq if given is state else gt

        return float(replacing_loss(encode, decode, lq, gt, NONE, 1.0, 1.0))

    assert loss(tame) == pytest.approx(0, abs=1e-12)
    assert loss(tame + 0.1) == pytest.approx(0.1)
    assert loss(tame.mean() + 2 * (tame - tame.mean())) == pytest.approx(float(lq.std() / 2))


def test_each_term_is_of_the_right_pictures_and_its_weight_is_linear() -> None:
    """By hand, with a codec that is wrong in everything."""
    lq, gt = pair()

    def encode(picture: Tensor) -> Encoded:
        return 0.7 * picture + 0.1, (picture**2, picture**3), SIZE

    def loss(replacing: float, regular: float) -> float:
        return float(replacing_loss(encode, sum_of_all, lq, gt, NONE, replacing, regular))

    skips = lq**2 + lq**3
    rebuilt = (0.7 * lq + 0.1 + skips - lq).abs().mean()
    replaced = (0.7 * gt + 0.1 + skips - gt).abs().mean()
    moments = (0.7 * lq.mean() + 0.1 - lq.mean()).abs() + 0.2 * lq.std()
    for replacing, regular in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (2.0, 0.25), (0.3, 3.0)):
        by_hand = float(rebuilt + replacing * replaced + regular * moments)
        assert loss(replacing, regular) == pytest.approx(by_hand)


@pytest.mark.parametrize("dropped", [[], [2], [0, 3], [0, 1, 2, 3]])
def test_dropping_takes_the_features_of_those_pictures_and_no_others(dropped: list[int]) -> None:
    """And only where the latent is replaced."""
    lq, gt = pair()
    drop = torch.zeros(4, dtype=torch.bool)
    drop[dropped] = True
    seen: list[Features] = []

    def decode(state: Tensor, features: Features, size: tuple[int, int]) -> Tensor:
        assert size == SIZE
        seen.append(features)
        return state

    def encode(picture: Tensor) -> Encoded:
        return picture, (picture + 1, picture[:, :1, ::2] + 2), SIZE

    replacing_loss(encode, decode, lq, gt, drop, 1.0, 0.0)
    for whole, kept, original in zip(*seen, encode(lq)[1], strict=True):
        assert torch.equal(whole, original)
        assert torch.equal(kept[~drop], original[~drop])
        assert float(kept[drop].abs().sum()) == 0


class Halves(nn.Module):
    """An encoder with a weight for the degraded and one for the clean picture: which is told by `lq`."""

    def __init__(self, lq: Tensor) -> None:
        super().__init__()
        self.lq = lq
        self.degraded, self.clean, self.skip = (nn.Parameter(torch.tensor(0.8)) for _ in range(3))

    def encode(self, picture: Tensor) -> Encoded:
        if picture is self.lq:
            return self.degraded * picture, (0.1 * self.skip * picture,), SIZE
        return self.clean * picture, (self.skip * torch.full_like(picture, float("nan")),), SIZE


@pytest.mark.parametrize(
    ("replacing", "drop", "alive"),
    [
        (1.0, NONE, {"degraded", "clean", "skip"}),
        (1.0, ~NONE, {"degraded", "clean", "skip"}),
        (0.0, NONE, {"degraded", "skip"}),
    ],
)
def test_gradients_reach_the_encoder_through_both_states(
    replacing: float, drop: Tensor, alive: set[str]
) -> None:
    """Of the clean picture only the state is used: its features, here NaN, never are."""
    lq, gt = (z.float() for z in pair())
    encoder = Halves(lq)
    loss = replacing_loss(encoder.encode, sum_of_all, lq, gt, drop, replacing, 0.0)
    loss.backward()
    gradients = {name: float(p.grad) for name, p in encoder.named_parameters() if p.grad is not None}
    assert {name for name, value in gradients.items() if value != 0} == alive
    assert all(math.isfinite(value) for value in gradients.values())
    assert loss.isfinite()


@pytest.mark.parametrize("loss", LOSSES)
def test_a_weight_leaves_only_the_error_where_it_is_1(sde: MeanRevertingSDE, loss: Loss) -> None:
    """The logarithm is taken of what is left."""
    x0, mu = torch.rand(2, 2, 3, 4, 6)
    noise, t = torch.randn(2, 3, 4, 6), torch.tensor([30, 100])
    weight = torch.zeros(2, 3, 4, 6)
    weight[..., :2] = 1

    def weighted(off: float, weight: Tensor | None) -> float:
        wrong = torch.cat([0.25 * torch.ones(2, 3, 4, 2), off * torch.ones(2, 3, 4, 4)], dim=-1)
        network = lambda x_t, mu, t: x0 - mu + wrong  # noqa: E731
        return float(diffusion_loss(network, sde, Clean(), x0, mu, t, noise, loss=loss, weight=weight))

    inside, everywhere = {
        "l1": (0.25 / 3, 0.25),
        "l2": (0.25**2 / 3, 0.25**2),
        "psnr": (math.log10(0.25**2 / 3), math.log10(0.25**2)),
    }[loss]
    assert weighted(9, weight) == pytest.approx(inside, rel=1e-4)
    assert weighted(0.25, None) == pytest.approx(everywhere, rel=1e-4)
