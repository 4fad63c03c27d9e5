"""Two views of a scene: what they must leave unchanged, then what they tell each other."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refusion.nn import cross_attention
from refusion.nn.cross_attention import SCAM
from refusion.nn.nafnet import ConditionalNAFNet

both_sizes = pytest.mark.parametrize("downscale", [1, 4])
SMALL: dict[str, Any] = {"width": 4, "encoder": [1, 1], "middle": 1, "decoder": [1, 1]}


def alive(module: nn.Module) -> Any:
    """The module with weights that all count."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module.requires_grad_(False)


def inputs(batch: int = 2, height: int = 32, width: int = 48) -> tuple[Tensor, Tensor, Tensor]:
    x_t, mu = torch.rand(2, batch, 3, height, width)
    return x_t, mu, torch.full((batch,), 30.0)


def swapped(x: Tensor) -> Tensor:
    return x.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)


def symmetric(module: SCAM) -> None:
    """What it does to the right view is what it does to the left."""
    for left, right in (("norm_l", "norm_r"), ("l_proj1", "r_proj1"), ("l_proj2", "r_proj2")):
        getattr(module, right).load_state_dict(getattr(module, left).state_dict())
    module.gamma.data.copy_(module.beta)


# Laws


@both_sizes
def test_a_fresh_module_is_the_identity(downscale: int) -> None:
    module, x = SCAM(6, downscale), torch.randn(4, 6, 9, 12)
    assert torch.equal(module(x), x)
    nn.init.ones_(module.beta)
    assert torch.equal(module(x)[1::2], x[1::2])
    assert (module(x) - x)[::2].abs().amin((1, 2, 3)).max() > 0


@both_sizes
def test_a_fresh_module_finds_what_looks_alike(downscale: int) -> None:
    """From random weights training would have to find the matches first, and short training never does."""
    far = 5
    module = SCAM(32, downscale).requires_grad_(False)
    points = torch.randn(32, 8, 40 + far)
    x = torch.stack([points[..., :40], points[..., far:]]).repeat_interleave(downscale, 2)
    x = x.repeat_interleave(downscale, 3)
    nn.init.dirac_(module.r_proj2.weight)
    nn.init.zeros_(module.r_proj2.bias)
    nn.init.ones_(module.beta)
    found = (module(x) - x)[0]
    torch.testing.assert_close(found[..., far * downscale :], x[0, ..., far * downscale :], rtol=0, atol=0.1)


def test_views_that_do_not_look_at_each_other_are_pictures() -> None:
    plain = alive(ConditionalNAFNet(**SMALL))
    stereo = ConditionalNAFNet(**SMALL, stereo=True).requires_grad_(False)
    lacking = stereo.load_state_dict(plain.state_dict(), strict=False)
    assert not lacking.unexpected_keys
    assert all(".fusion." in name for name in lacking.missing_keys)
    x_t, mu, t = inputs(4)
    assert torch.equal(stereo(x_t, mu, t), plain(x_t, mu, t))


def test_each_view_matters_to_both() -> None:
    network, (x_t, mu, t) = alive(ConditionalNAFNet(**SMALL, stereo=True)), inputs()
    before = network(x_t, mu, t)
    for view in (0, 1):
        other = mu.clone()
        other[view] += 0.2
        change = (network(x_t, other, t) - before).abs().amax((1, 2, 3))
        assert (change > 1e-3).all()


def test_where_left_and_right_are_alike_swapping_the_views_swaps_the_results() -> None:
    network, (x_t, mu, t) = alive(ConditionalNAFNet(**SMALL, stereo=True)), inputs(4)
    there_and_back = swapped(network(swapped(x_t), swapped(mu), t))
    assert (there_and_back - network(x_t, mu, t)).abs().max() > 1e-3
    for module in network.modules():
        if isinstance(module, SCAM):
            symmetric(module)
    there_and_back = swapped(network(swapped(x_t), swapped(mu), t))
    torch.testing.assert_close(there_and_back, network(x_t, mu, t), rtol=0, atol=1e-5)


def test_scenes_do_not_know_of_each_other() -> None:
    network, (x_t, mu, t) = alive(ConditionalNAFNet(**SMALL, stereo=True)), inputs(6)
    t = torch.tensor([1.0, 50.0, 100.0]).repeat_interleave(2)
    together = network(x_t, mu, t)
    for i in (0, 2, 4):
        pair = slice(i, i + 2)
        torch.testing.assert_close(together[pair], network(x_t[pair], mu[pair], t[pair]), rtol=0, atol=1e-5)


@both_sizes
@pytest.mark.parametrize("view", [0, 1])
def test_rows_do_not_know_of_rows_outside_their_block(view: int, downscale: int) -> None:
    module, x = alive(SCAM(6, downscale)), torch.randn(2, 6, 16, 20)
    other = x.clone()
    other[view, :, 9, 7] += 1
    changed = (module(other) - module(x)).abs().amax(1) > 1e-7
    elsewhere = changed[1 - view]
    block = torch.arange(8, 12) if downscale == 4 else torch.tensor([9])
    assert torch.equal(elsewhere.any(1).nonzero().flatten(), block)
    assert elsewhere[block].all()  # but along the whole row


def test_far_rows_of_one_view_change_nothing_in_the_other() -> None:
    """Beyond `reach`, apart from what is pooled."""
    network = alive(ConditionalNAFNet(**SMALL, stereo=True))
    x_t, mu, t = inputs(2, 96, 16)
    reach, row = network.reach, 48
    assert reach == 30

    def local(mu: Tensor) -> Tensor:
        return network(x_t, mu, t, pool=lambda x: torch.ones_like(x[:1, :, :1, :1]))

    other = mu.clone()
    other[1, :, row] += 1
    felt = (local(other) - local(mu))[0].abs().amax((0, 2)).nonzero().flatten()
    cell = network.multiple
    assert felt.min() >= row - reach - cell
    assert felt.max() <= row + reach + cell
    assert len(felt) > 4


def test_chunks_change_memory_only(monkeypatch: pytest.MonkeyPatch) -> None:
    module, x, seen = alive(SCAM(6)), torch.randn(4, 6, 24, 40), list[int]()
    whole, attention = module(x), F.scaled_dot_product_attention

    def spied(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        seen.append(len(q) * q.shape[-2] * k.shape[-2])
        return attention(q, k, v)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spied)
    for scores, largest, calls in ((250, 200, 12), (100, 100, 24), (1, 100, 24), (2**24, 1200, 2)):
        monkeypatch.setattr(cross_attention, "SCORES", scores)
        seen.clear()
        torch.testing.assert_close(module(x), whole, rtol=0, atol=1e-6)
        assert (max(seen), len(seen)) == (largest, calls)


@pytest.mark.parametrize("size", [(3, 20), (20, 3), (1, 1)])
def test_what_is_smaller_than_a_block_is_left_as_it_is(size: tuple[int, int]) -> None:
    module, x = alive(SCAM(6)), torch.randn(2, 6, *size)
    assert torch.equal(module(x), x)


@pytest.mark.parametrize("size", [(1, 1), (3, 9), (21, 34)])
def test_any_size_is_restored(size: tuple[int, int]) -> None:
    network, (x_t, mu, t) = alive(ConditionalNAFNet(**SMALL, stereo=True)), inputs(2, *size)
    output = network(x_t, mu, t)
    assert output.shape == x_t.shape
    assert output.isfinite().all()


@pytest.mark.parametrize("batch", [1, 3])
def test_a_view_without_the_other_is_an_error_that_counts(batch: int) -> None:
    network = ConditionalNAFNet(**SMALL, stereo=True)
    with pytest.raises(ValueError, match=f"batch has {batch} pictures"):
        network(*inputs(batch))


@pytest.mark.parametrize("downscale", [0, 2, 8])
def test_views_meet_at_full_size_or_a_quarter(downscale: int) -> None:
    with pytest.raises(ValueError, match=rf"downscale is {downscale}: give one of \(1, 4\)"):
        ConditionalNAFNet(**SMALL, stereo=True, downscale=downscale)


def test_every_weight_is_trained() -> None:
    network = alive(ConditionalNAFNet(**SMALL, stereo=True)).requires_grad_(True)
    network(*inputs()).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        if "l_proj1.bias" not in name and "r_proj1.bias" not in name:  # softmax cancels some of these
            assert parameter.grad.abs().max() > 0, name


@both_sizes
def test_neither_width_nor_memory_format_is_lost(downscale: int) -> None:
    module = alive(SCAM(6, downscale))
    x = torch.randn(2, 6, 17, 20).to(memory_format=torch.channels_last)
    exact = module(x)
    assert exact.is_contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = module(x.bfloat16())
    assert half.dtype == torch.bfloat16
    assert (half.float() - exact).abs().max() < 0.03 * exact.abs().max()


def test_stereo_says_what_it_needs() -> None:
    plain, stereo = ConditionalNAFNet(**SMALL), ConditionalNAFNet(**SMALL, stereo=True)
    assert ConditionalNAFNet(**SMALL, stereo=True, downscale=1).multiple == 4
    assert (plain.num_views, plain.factor, plain.multiple) == (1, 4, 4)
    assert (stereo.num_views, stereo.factor, stereo.multiple) == (2, 4, 16)


# The published words, written once more


def straightforward(module: SCAM, x: Tensor) -> Tensor:
    """Shrunk by a kernel, attended over the whole picture at once, enlarged by an index."""
    block = module.downscale
    height, width = x.shape[-2] // block, x.shape[-1] // block
    cubic = [-0.09375, 0.59375, 0.59375, -0.09375]  # Keys', a = -3/4, at 3/2 and 1/2
    line = torch.tensor(cubic if block == 4 else [1.0])
    whole = x[..., : block * height, : block * width]
    cells = whole.unflatten(-2, (height, block)).unflatten(-1, (width, block))
    small = torch.einsum("bciyjx,y,x->bcij", cells, line, line)
    left, right = small[0::2], small[1::2]

    def normal(x: Tensor, gain: Tensor) -> Tensor:
        centred = x - x.mean(1, keepdim=True)
        return centred / (x.var(1, correction=0, keepdim=True) + 1e-5).sqrt() * gain

    def project(x: Tensor, by: nn.Conv2d) -> Tensor:
        assert by.bias is not None
        return torch.einsum("dc,bcij->bdij", by.weight[..., 0, 0], x) + by.bias[:, None, None]

    q_l = project(normal(left, module.norm_l.g), module.l_proj1)
    q_r = project(normal(right, module.norm_r.g), module.r_proj1)
    scores = torch.einsum("bcij,bcik->bijk", q_l, q_r) / x.shape[1] ** 0.5
    to_left = torch.einsum("bijk,bcik->bcij", scores.softmax(3), project(right, module.r_proj2))
    to_right = torch.einsum("bijk,bcij->bcik", scores.softmax(2), project(left, module.l_proj2))
    rows = torch.tensor([i * height // x.shape[-2] for i in range(x.shape[-2])])
    columns = torch.tensor([i * width // x.shape[-1] for i in range(x.shape[-1])])
    result = x.clone()
    result[0::2] += (module.beta * to_left)[:, :, rows][..., columns]
    result[1::2] += (module.gamma * to_right)[:, :, rows][..., columns]
    return result


@both_sizes
@pytest.mark.parametrize("size", [(16, 24), (19, 30), (7, 9), (4, 45)])
def test_the_module_is_what_the_words_say(size: tuple[int, int], downscale: int) -> None:
    module, x = alive(SCAM(6, downscale)), torch.randn(4, 6, *size)
    for parameter in (module.beta, module.gamma):
        nn.init.normal_(parameter)
    output = module(x)
    assert (output - x).abs().max() > 0.1
    torch.testing.assert_close(output, straightforward(module, x), rtol=0, atol=1e-5)


def test_the_views_meet_at_the_end_of_every_block() -> None:
    network, (x_t, mu, t) = alive(ConditionalNAFNet(**SMALL, stereo=True)), inputs()
    blocks, seen = network._blocks(), list[Tensor]()
    hooks = [block.fusion.register_forward_hook(lambda _, args, out: seen.append(out)) for block in blocks]
    hooks += [block.register_forward_hook(lambda _, args, out: seen.append(out)) for block in blocks]
    network(x_t, mu, t)
    for hook in hooks:
        hook.remove()
    assert len(seen) == 2 * len(blocks)
    assert all(fused is ended for fused, ended in zip(seen[::2], seen[1::2], strict=True))
