"""Tiles change memory, never the picture: geometry, margins, one set of statistics, the end of memory."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
import torch.nn.functional as F
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor, nn

from refusion.errors import Notice
from refusion.nn.nafnet import ConditionalNAFNet
from refusion.nn.network import Network
from refusion.nn.pooling import Pool, whole_mean
from refusion.nn.unet import ConditionalUNet
from refusion.restoring.tiling import (
    TiledNetwork,
    Tiles,
    TilingPolicy,
    Window,
    is_oom,
    windows,
    with_tiling,
)
from restorers import said

SMALL: dict[str, Any] = {"width": 4, "encoder": (1, 1), "middle": 1, "decoder": (1, 1)}
POLICY = TilingPolicy()
SMALL_PATCHES = TilingPolicy(patch=32)
"""Statistics from 16 patches of 32, so that small states are large."""


class Local(ConditionalNAFNet):
    """A network without anything global."""

    def forward(self, *args: Any, pool: Pool | None = None, **rest: Any) -> Tensor:
        return super().forward(*args, pool=lambda x: torch.ones_like(x[:1, :, :1, :1]), **rest)


class Naive(ConditionalNAFNet):
    """A network that takes the mean of whatever it is shown, as if a window were a picture."""

    def forward(self, *args: Any, pool: Pool | None = None, **rest: Any) -> Tensor:
        return super().forward(*args, **rest)


class Whole(Network):
    """A network that declares nothing, and does nothing."""

    def embed(self, t: Tensor, condition: Tensor | None = None) -> Tensor:
        return t[:, None]

    def forward(
        self, x_t: Tensor, mu: Tensor, t: Tensor, embedding: Tensor | None = None, pool: Pool = whole_mean
    ) -> Tensor:
        return x_t


def alive(kind: type[ConditionalNAFNet] = ConditionalNAFNet, **sizes: Any) -> ConditionalNAFNet:
    """A network in which every weight counts."""
    torch.manual_seed(1)
    network = kind(**{**SMALL, **sizes}).requires_grad_(False).eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network


def states(height: int, width: int, batch: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    x_t, mu = torch.rand(2, batch, 3, height, width, generator=torch.Generator().manual_seed(2))
    return x_t, mu, torch.full((batch,), 50.0)


# ---- geometry

lengths, tiles, margins, multiples = (st.integers(*ends) for ends in ((1, 300), (1, 150), (0, 40), (1, 16)))


@given(lengths, tiles, margins, multiples)
@example(1, 64, 8, 4)
@example(17, 64, 8, 4)
@example(64, 64, 0, 1)
@example(65, 64, 5, 16)
def test_windows_cut_a_line_without_gap_or_overlap(
    length: int, tile: int, margin: int, multiple: int
) -> None:
    line = torch.arange(length)
    cut = list(windows(length, tile, margin, multiple))
    assert torch.equal(torch.cat([line[w.inner] for w in cut]), line)
    for window in cut:
        assert torch.equal(line[window.outer][window.within], line[window.inner])
        assert 0 < window.inner.stop - window.inner.start <= max(tile, multiple)
        for start, stop in ((w.start, w.stop) for w in window):
            assert start % multiple == 0
            assert stop % multiple == 0 or stop == length
        before, after = window.inner.start - window.outer.start, window.outer.stop - window.inner.stop
        assert before >= min(margin, window.inner.start)
        assert after >= min(margin, length - window.inner.stop)
        assert max(before, after) < margin + multiple


def test_pieces_are_of_nearly_equal_length() -> None:
    assert [w.inner.stop - w.inner.start for w in windows(750, 512, 0, 8)] == [376, 374]


def test_a_window_over_a_factor_is_the_same_piece_of_what_is_reduced() -> None:
    line = torch.arange(96)
    for window in windows(96, 32, 5, 8):
        reduced = window.over(8)
        assert torch.equal(line[::8][reduced.inner], line[window.inner][::8])
        assert torch.equal(line[::8][reduced.outer][reduced.within], line[window.inner][::8])


@given(st.integers(1, 3000), st.integers(1, 3000), st.sampled_from([1, 8, 16]))
@example(1, 1, 8)
@example(128, 2048, 8)
@example(4000, 6000, 16)
@example(100, 5000, 16)
def test_patches_are_at_most_16_alike_inside_and_spread(height: int, width: int, multiple: int) -> None:
    places = list(POLICY.patches(height, width, multiple))
    assert 1 <= len(places) <= 16
    assert len({(r.start, c.start) for r, c in places}) == len(places)
    for rows, columns in places:
        for part, length in ((rows, height), (columns, width)):
            assert part.stop - part.start == min(128, length)
            assert part.start % multiple == 0
            assert part.stop <= length
    for parts, length in zip(zip(*places, strict=True), (height, width), strict=True):
        starts = sorted({part.start for part in parts})
        gaps = np.diff(starts)
        if len(starts) > 1:
            assert starts[0] == 0
            assert starts[-1] > length - 128 - multiple
            assert gaps.max() - gaps.min() <= multiple + 1
    seen = torch.zeros(height, width)
    for place in places:
        seen[place] = 1
    if height <= 512 and width <= 512 and not (height % multiple or width % multiple):
        assert seen.all()


@given(lengths, lengths, tiles, margins, multiples)
@example(100, 300, 16, 30, 16)
def test_bands_are_as_wide_as_the_picture_and_take_no_more_than_a_tile(
    height: int, width: int, side: int, margin: int, multiple: int
) -> None:
    seen = torch.zeros(height, width)

    def work(rows: Window, columns: Window) -> None:
        assert columns.outer == columns.inner == slice(0, width)
        seen[rows.inner, columns.inner] += 1
        kept = rows.inner.stop - rows.inner.start
        assert kept <= multiple or (kept + 2 * margin) * width <= (side + 2 * margin) ** 2

    Tiles(side, 1).sweep((height, width), margin, multiple, work, bands=True)
    assert (seen == 1).all()


@given(st.integers(1, 5000), st.integers(1, 2**40), st.integers(0, 64))
def test_a_fitting_window_takes_half_of_the_free_memory_and_little_at_most(
    working_bytes: int, free: int, margin: int
) -> None:
    side = POLICY.max_tile_side(working_bytes, free, margin)
    room = min(free / 2, 2**30)
    assert side == 1 or (side + 2 * margin) ** 2 * working_bytes <= room
    assert (side + 1 + 2 * margin) ** 2 * working_bytes > room


# ---- what a network reaches


@pytest.mark.parametrize(
    ("encoder", "middle", "decoder", "expected"),
    [
        ((1,), 1, (1,), 6),
        ((1, 1), 1, (1, 1), 12),
        ((2, 0, 1), 0, (1, 2, 0), 23),
        ((2, 2, 4), 2, (2, 2, 2), 55),
    ],
)
def test_reach_is_exact(
    encoder: tuple[int, ...], middle: int, decoder: tuple[int, ...], expected: int
) -> None:
    """A window's output depends on so many positions on both sides, and on none further away."""
    network = alive(Local, encoder=encoder, middle=middle, decoder=decoder).double()
    reach, multiple = network.reach, network.multiple
    assert reach == expected
    start = (reach // multiple + 2) * multiple
    stop = start + 2 * multiple
    x_t, mu, t = (x.double() for x in states(multiple, stop + start))
    output = network(x_t.requires_grad_(), mu, t)[..., start:stop]
    (gradient,) = torch.autograd.grad((output * torch.rand_like(output)).sum(), x_t)
    felt = gradient.abs().amax((0, 1, 2)).nonzero().flatten()  # the least of them is 1e-16
    assert torch.equal(felt, torch.arange(start - reach, stop + reach))


@pytest.mark.parametrize(
    ("encoder", "middle", "decoder", "downscale", "expected"),
    [
        ((1,), 1, (1,), 4, 14),
        ((1, 1), 1, (1, 1), 4, 30),
        ((2, 0, 1), 0, (1, 2, 0), 4, 58),
        ((2, 0, 1), 0, (1, 2, 0), 1, 23),
    ],
)
def test_reach_over_rows_of_two_views_is_exact(
    encoder: tuple[int, ...], middle: int, decoder: tuple[int, ...], downscale: int, expected: int
) -> None:
    shape: dict[str, Any] = {"encoder": encoder, "middle": middle, "decoder": decoder}
    network = alive(Local, **shape, stereo=True, downscale=downscale).double()
    reach, multiple = network.reach, network.multiple
    assert (reach, multiple) == (expected, downscale * 2 ** len(encoder))
    start = (reach // multiple + 2) * multiple
    stop = start + multiple
    x_t, mu, t = (x.double() for x in states(stop + start, multiple, batch=2))
    output = network(x_t.requires_grad_(), mu, t)[..., start:stop, :]
    (gradient,) = torch.autograd.grad((output * torch.rand_like(output)).sum(), x_t)
    for view in gradient:
        felt = view.abs().amax((0, 2)).nonzero().flatten()
        assert torch.equal(felt, torch.arange(start - reach, stop + reach))


def test_the_published_network_reaches_further_than_any_margin() -> None:
    with torch.device("meta"):
        assert ConditionalNAFNet().reach == 264


# ---- a tiled network


@pytest.mark.parametrize("tile", [16, 40, 64, 1000])
@pytest.mark.parametrize("size", [(70, 101), (1, 90), (64, 64)])
def test_where_nothing_is_global_tiles_are_the_whole(size: tuple[int, int], tile: int) -> None:
    network, given = alive(Local), states(*size)
    whole = network(*given)
    torch.testing.assert_close(TiledNetwork(network, tile)(*given), whole, rtol=0, atol=1e-5)


def test_where_the_patches_are_the_picture_tiles_are_the_whole() -> None:
    network, given = alive(), states(72, 120)
    torch.testing.assert_close(TiledNetwork(network, 40)(*given), network(*given), rtol=0, atol=1e-4)


@pytest.mark.slow
def test_the_result_does_not_depend_on_the_tile() -> None:
    network, given = alive(), states(150, 203)
    results = [TiledNetwork(network, tile, SMALL_PATCHES)(*given) for tile in (32, 50, 120, 1000)]
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=0, atol=1e-4)
    assert (results[0] - network(*given)).abs().max() > 1e-3  # the statistics are those of patches


def test_every_tile_is_given_what_all_patches_were_given_together() -> None:
    taken: list[list[Tensor]] = []

    class Spied(ConditionalNAFNet):
        def forward(self, *args: Any, pool: Pool, **rest: Any) -> Tensor:
            taken.append([])

            def spied(x: Tensor) -> Tensor:
                taken[-1].append(pool(x))
                return taken[-1][-1]

            return super().forward(*args, pool=spied, **rest)

    TiledNetwork(alive(Spied), 64, SMALL_PATCHES)(*states(100, 180))
    patches_got, *tiles_got = taken
    assert len(tiles_got) == 6
    assert [mean.shape for mean in patches_got] == [(15, c, 1, 1) for c in (4, 8, 16, 8, 4)]
    for got in tiles_got:
        for mean, expected in zip(got, patches_got, strict=True):
            assert torch.equal(mean.expand_as(expected), expected)


def scenes() -> Iterator[tuple[str, Tensor]]:
    height, width = 160, 240
    yield "constant", torch.full((1, 3, height, width), 0.6)
    yield "gradient", torch.linspace(0, 1, width).expand(1, 3, height, width)
    rows, columns = torch.arange(height)[:, None] // 8, torch.arange(width) // 8
    yield "checkerboard", ((rows + columns) % 2).float().expand(1, 3, height, width)
    photograph = torch.from_numpy(skimage.data.astronaut()[:height, :width] / np.float32(255))
    yield "photograph", photograph.permute(2, 0, 1)[None]


def jumps(x: Tensor, tile: int, multiple: int) -> tuple[float, float]:
    """How the mean step over a line of pixels stands out among its likes, at tiles' borders and elsewhere.

    Its likes are `multiple` to both sides, since upsampling makes textures of that period. Twenty pixels
    along the picture's own border are left out.
    """
    at_border, elsewhere = [], []
    for across in (x, x.mT):
        length = across.shape[-1]
        step = across.diff(dim=-1)[..., 20:-20, :].mean(-2)
        outstanding = F.pad((step - (step.roll(multiple, -1) + step.roll(-multiple, -1)) / 2).abs(), (1, 0))
        borders = torch.tensor([w.inner.start for w in windows(length, tile, 0, multiple)][1:])
        distance = (torch.arange(length)[:, None] - borders).abs().amin(1)
        inside = torch.arange(length).clamp(20, length - 20) == torch.arange(length)
        at_border.append(outstanding[..., distance == 0].max())
        elsewhere.append(outstanding[..., inside & (distance > multiple)].max())
    return float(max(at_border)), float(max(elsewhere))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["constant", "gradient", "checkerboard", "photograph"])
def test_no_seam(name: str) -> None:
    """What tiles change is as smooth over their borders as elsewhere; with a mean for each tile they show."""
    mu = dict(scenes())[name]
    given, tile = (mu, mu, torch.full((1,), 50.0)), 70
    whole = alive()(*given)
    at_border, elsewhere = jumps(TiledNetwork(alive(), tile, SMALL_PATCHES)(*given) - whole, tile, 4)
    assert at_border <= elsewhere + 1e-6
    if name in ("gradient", "photograph"):  # whose parts have different means
        assert (
            jumps(TiledNetwork(alive(Naive), tile, SMALL_PATCHES)(*given) - whole, tile, 4)[0]
            > 10 * at_border
        )


def test_a_batch_is_each_and_an_embedding_given_is_the_time_given() -> None:
    network = alive()
    x_t, mu, _ = states(40, 150, batch=3)
    t = torch.tensor([1.0, 50.0, 100.0])
    tiled = TiledNetwork(network, 64, SMALL_PATCHES)
    together = tiled(x_t, mu, t, tiled.embed(t))
    for i in range(3):
        one = slice(i, i + 1)
        torch.testing.assert_close(tiled(x_t[one], mu[one], t[one]), together[one], rtol=0, atol=1e-4)
    assert (together[0] - tiled(x_t[:1], mu[:1], t[2:])).abs().max() > 1e-3


# ---- several views of a scene


@pytest.mark.slow
@pytest.mark.parametrize("tile", [4, 40, 64, 1000])
@pytest.mark.parametrize("size", [(160, 101), (16, 90), (96, 24)])
def test_bands_of_two_views_are_the_whole(size: tuple[int, int], tile: int) -> None:
    network, given = alive(Local, stereo=True), states(*size, batch=4)
    whole = network(*given)
    torch.testing.assert_close(TiledNetwork(network, tile)(*given), whole, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("height", [150, 33, 7])
def test_of_any_height_they_are_the_whole_filled_up_with_rows_of_zeros(height: int) -> None:
    network, (x_t, mu, t) = alive(Local, stereo=True), states(height, 101, batch=2)
    filled = (F.pad(x, (0, 0, 0, -height % network.multiple)) for x in (x_t, mu))
    whole = network(*filled, t)[..., :height, :]
    for tile in (4, 64, 1000):
        torch.testing.assert_close(TiledNetwork(network, tile)(x_t, mu, t), whole, rtol=0, atol=1e-5)


def test_of_two_views_each_has_its_own_statistics() -> None:
    network, given = alive(stereo=True), states(80, 120, batch=4)
    torch.testing.assert_close(TiledNetwork(network, 40)(*given), network(*given), rtol=0, atol=1e-4)


@pytest.mark.slow
def test_the_result_of_two_views_does_not_depend_on_the_tile_or_on_other_scenes() -> None:
    network, (x_t, mu, _) = alive(stereo=True), states(150, 203, batch=4)
    given = (x_t, mu, torch.tensor([1.0, 1.0, 50.0, 50.0]))
    results = [TiledNetwork(network, tile, SMALL_PATCHES)(*given) for tile in (20, 90, 1000)]
    results.append(
        torch.cat([TiledNetwork(network, 90, SMALL_PATCHES)(*(x[i : i + 2] for x in given)) for i in (0, 2)])
    )
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=0, atol=1e-4)
    assert (results[0] - network(*given)).abs().max() > 1e-3  # the statistics are those of patches


def test_windows_of_two_views_are_bands_of_full_width_and_patches_hold_both_at_one_place() -> None:
    shapes, patched = [], []

    class Spied(ConditionalNAFNet):
        def forward(self, x_t: Tensor, *args: Any, **rest: Any) -> Tensor:
            shapes.append(tuple(x_t.shape))
            patched.append(x_t)
            return super().forward(x_t, *args, **rest)

    x_t, mu, t = states(150, 200, batch=2)
    TiledNetwork(alive(Spied, stereo=True), 100, SMALL_PATCHES)(x_t, mu, t)
    places = list(SMALL_PATCHES.patches(150, 200, 16))
    assert shapes == [(2 * len(places), 3, 32, 32), *((2, 3, rows, 200) for rows in (80, 112, 96, 48))]
    for (rows, columns), views in zip(places, patched[0].split(2), strict=True):
        assert torch.equal(views, x_t[..., rows, columns])


@pytest.mark.parametrize("count", [1, 3])
def test_a_view_without_the_other_is_an_error_in_tiles_too(count: int) -> None:
    with pytest.raises(ValueError, match="left and right view of every scene"):
        TiledNetwork(alive(stereo=True), 40)(*states(40, 50, batch=count))


def test_a_network_that_declares_no_views_or_conditions_is_given_one_picture_and_the_time() -> None:
    class Plain(Network):
        reach, working_bytes = 1, 8

        def embed(self, t: Tensor, condition: Tensor | None = None) -> Tensor:
            assert condition is None
            return t[:, None]

        def forward(
            self,
            x_t: Tensor,
            mu: Tensor,
            t: Tensor,
            embedding: Tensor | None = None,
            pool: Pool = whole_mean,
        ) -> Tensor:
            assert embedding is not None
            return F.avg_pool2d(x_t, 3, 1, 1) * embedding[:, :, None, None] + pool(mu)

    x_t, mu, t = states(50, 60, batch=3)
    whole = Plain()(x_t, mu, t, t[:, None])
    tiled = TiledNetwork(Plain(), 20)
    torch.testing.assert_close(tiled(x_t, mu, t), whole, rtol=0, atol=1e-4)


def test_conditions_are_embedded_with_the_time() -> None:
    network, (x_t, mu, t) = alive(conditions=2), states(72, 120, batch=2)
    condition = torch.tensor([[1.0, -14.0], [30.0, 2.0]])
    tiled = TiledNetwork(network, 40)
    embedding = tiled.embed(t, condition)
    assert torch.equal(embedding, network.embed(t, condition))
    whole = network(x_t, mu, t, embedding)
    torch.testing.assert_close(tiled(x_t, mu, t, embedding), whole, rtol=1e-4, atol=1e-4)


def test_the_tile_of_two_views_has_room_for_both() -> None:
    plain, stereo = alive(width=64), alive(width=64, stereo=True)
    state = torch.empty(2, 3, 2000, 3000, device="meta")
    tiled = with_tiling(stereo, state, 2**40)
    assert isinstance(tiled, TiledNetwork)
    assert tiled.tiles.side == POLICY.max_tile_side(2 * plain.working_bytes, 2**31, 64)


# ---- the end of memory

ENDS: list[Exception] = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    MemoryError(),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: can't allocate memory: you tried"
    ),
    RuntimeError(
        "[enforce fail] data. DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."
    ),
    RuntimeError("MPS backend out of memory (MPS allocated: 17 GB)"),
]


class Narrow(ConditionalNAFNet):
    """A network that has room for no more than so many positions."""

    room = 0
    end: Exception

    def forward(self, x_t: Tensor, *args: Any, **rest: Any) -> Tensor:
        if len(x_t) == 1 and x_t.shape[-1] * x_t.shape[-2] > self.room:
            raise self.end
        return super().forward(x_t, *args, **rest)


@pytest.mark.slow
@pytest.mark.parametrize("end", ENDS, ids=repr)
def test_where_memory_ends_tiles_halve_and_stay_so(end: Exception) -> None:
    given, notices = states(100, 180), list[Notice]()
    expected = TiledNetwork(alive(), 40, SMALL_PATCHES)(*given)
    narrow = alive(Narrow)
    assert isinstance(narrow, Narrow)
    narrow.room, narrow.end = 70 * 70, end
    tiled = TiledNetwork(narrow, 160, TilingPolicy(patch=32, min_state_tile=20), notices.append)
    torch.testing.assert_close(tiled(*given), expected, rtol=0, atol=1e-4)
    tiled(*given)
    assert said(notices) == [("out-of-memory", "info", [side]) for side in ("80", "40")]
    assert tiled.tiles.side == 40


def test_the_smallest_tiles_without_memory_are_an_error() -> None:
    narrow = alive(Narrow)
    assert isinstance(narrow, Narrow)
    narrow.room, narrow.end = 10, ENDS[2]
    tiled = TiledNetwork(narrow, 160, TilingPolicy(patch=32, min_state_tile=50))
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        tiled(*states(100, 180))
    assert tiled.tiles.side == 50


def test_other_faults_are_raised_at_once() -> None:
    calls = []

    def work(*_: object) -> None:
        calls.append(1)
        raise RuntimeError("sizes must match")

    with pytest.raises(RuntimeError, match="sizes must match"):
        Tiles(64, 8).sweep((100, 100), 0, 1, work)
    assert len(calls) == 1
    assert not is_oom(ValueError("out of range"))


# ---- which states are tiled


def test_networks_that_declare_no_reach_are_whole_however_large() -> None:
    large = torch.empty(1, 3, 2000, 3000, device="meta")
    with torch.device("meta"):
        for network in (
            ConditionalNAFNet(**SMALL, local=(64, 64)),
            ConditionalUNet(width=4, multipliers=(1, 2)),
            Whole(),
        ):
            assert with_tiling(network, large, 0, 512) is network


@pytest.mark.parametrize("free", [1, 2**50])
def test_small_states_are_whole_and_large_ones_are_tiled_whatever_is_free(free: int) -> None:
    network = alive()
    with torch.device("meta"):
        small, large = torch.empty(1, 3, 512, 512), torch.empty(1, 3, 725, 725)
    assert with_tiling(network, small, free) is network
    assert with_tiling(network, small, free, 128) is network
    assert isinstance(with_tiling(network, large, free), TiledNetwork)
    assert isinstance(with_tiling(network, large, free, 4096), TiledNetwork)


def test_between_them_memory_decides_with_a_reserve_or_the_given_tile() -> None:
    network = alive()
    with torch.device("meta"):
        states = torch.empty(2, 3, 700, 700)
    need = 2 * 700 * 700 * network.working_bytes
    assert with_tiling(network, states, 2 * need) is network
    assert isinstance(with_tiling(network, states, 2 * need - 2), TiledNetwork)
    assert isinstance(with_tiling(network, states, 2 * need, 300), TiledNetwork)


def test_networks_that_cannot_be_tiled_restore_what_is_not_large() -> None:
    network = Whole()
    assert with_tiling(network, torch.empty(1, 3, 512, 512, device="meta"), 1) is network


def test_the_tile_is_what_fits_or_what_is_given() -> None:
    network, notices = alive(width=64), list[Notice]()
    state = torch.empty(1, 3, 2000, 3000, device="meta")
    sides = []
    for tile, free in ((None, 2**40), (None, 2**30), (None, 2**20), (700, 2**20), (10, 2**40)):
        tiled = with_tiling(network, state, free, tile, report=notices.append)
        assert isinstance(tiled, TiledNetwork)
        sides.append(tiled.tiles.side)
    assert sides == [
        POLICY.max_tile_side(network.working_bytes, 2**31, 64),
        POLICY.max_tile_side(network.working_bytes, 2**30, 64),
        256,
        700,
        256,
    ]
    assert sides[0] > sides[1] > 256
    gibs = ("1024.0", "1.0", "0.0", "0.0", "1024.0")
    assert said(notices) == [
        ("network-tiled", "info", ["3000", "2000", str(side), gib])
        for side, gib in zip(sides, gibs, strict=True)
    ]


@pytest.mark.parametrize("height", [100, 150])
def test_memory_and_tile_do_not_change_what_two_views_become(height: int) -> None:
    """Of whatever height, also one that bands fill up with other rows than the whole."""
    network, (x_t, mu, t) = alive(stereo=True), states(height, 203, batch=2)
    results = [
        with_tiling(network, x_t, free, tile, SMALL_PATCHES)(x_t, mu, t)
        for free, tile in ((2**40, None), (0, None), (2**40, 70))
    ]
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=0, atol=1e-4)


# ---- the policy


def test_a_policy_is_a_value() -> None:
    assert TilingPolicy() == TilingPolicy(max_whole=2**19, patch=128, max_patches=16)
    assert len({TilingPolicy(), TilingPolicy(), TilingPolicy(patch=32)}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        TilingPolicy().patch = 32  # type: ignore[misc]


@pytest.mark.parametrize("max_whole", [100 * 120 - 1, 100 * 120])
def test_the_policy_says_how_large_a_whole_state_may_be(max_whole: int) -> None:
    policy = TilingPolicy(max_whole=max_whole, patch=16, max_patches=4)
    network, state = alive(), torch.empty(1, 3, 100, 120, device="meta")
    chosen = with_tiling(network, state, 2**40, policy=policy)
    assert isinstance(chosen, TiledNetwork) == (max_whole < 100 * 120)


@pytest.mark.parametrize(("patch", "tiled"), [(16, True), (32, False)])
def test_what_its_patches_cover_is_never_tiled(patch: int, tiled: bool) -> None:
    policy = TilingPolicy(max_whole=1, patch=patch, max_patches=4)
    network, state = alive(), torch.empty(1, 3, 64, 64, device="meta")
    assert isinstance(with_tiling(network, state, 1, 16, policy), TiledNetwork) == tiled


def test_the_policy_bounds_margins_windows_and_tiles() -> None:
    policy = TilingPolicy(
        max_whole=1, patch=16, max_patches=4, max_margin=5, min_state_tile=20, max_window_bytes=2**20
    )
    network, state = alive(), torch.empty(1, 3, 2000, 3000, device="meta")
    assert network.reach == 12
    sides = []
    for free, tile in ((2**40, None), (1, None), (1, 10), (1, 30)):
        tiled = with_tiling(network, state, free, tile, policy)
        assert isinstance(tiled, TiledNetwork)
        assert tiled.margin == 5
        sides.append(tiled.tiles.side)
    assert sides == [math.isqrt(2**20 // network.working_bytes) - 10, 20, 20, 30]
    assert len(list(policy.patches(2000, 3000, 4))) <= 4


def test_a_tiled_network_declares_what_the_network_does() -> None:
    for network in (alive(stereo=True), alive(conditions=3), alive(conditional=False)):
        tiled = TiledNetwork(network, 40)
        for name in ("num_views", "num_conditions", "conditional", "multiple"):
            assert getattr(tiled, name) == getattr(network, name), name
