"""Tiling: pictures of any size in bounded memory. Tiles are computed with margins and kept without them.

A tile is a pair of windows, one of rows and one of columns.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from refusion.allocator import release_freed_memory
from refusion.errors import Notice, Report
from refusion.nn.network import Network
from refusion.nn.pooling import Pool, whole_mean

DEFAULT_MIN_TILE = 128
"""Side in pixels of the smallest tile of a picture; a smaller one would be mostly margin."""


def ignore(notice: Notice) -> None:
    """Drop a notice."""


@dataclass(frozen=True)
class TilingPolicy:
    """The sizes at which a picture or a state is cut into tiles, and of the tiles.

    Args:
        max_whole: positions of a state above which a network always runs in tiles, so that the result is the
            same on every machine. The default is a latent of 33 megapixels, reduced 8 times.
        max_margin: largest margin of a tile in positions. A larger receptive field, through the deepest
            blocks, hardly matters: with the dehazing model, whose reach is 55, a margin of 24 errs by up to
            6e-3, 32 by 3e-4, 40 by 2e-5, 48 by 5e-7.
        patch: side in positions of the patches over which means are measured.
        max_patches: largest number of these patches.
        min_tile: smallest side in pixels of a picture's tiles.
        min_state_tile: smallest side in positions of a state's tiles; smaller tiles would not save memory,
            as the patches need more.
        max_window_bytes: largest memory of a window; larger windows would hardly be faster.
    """

    max_whole: int = 2**19
    max_margin: int = 64
    patch: int = 128
    max_patches: int = 16
    min_tile: int = DEFAULT_MIN_TILE
    min_state_tile: int = 256
    max_window_bytes: int = 2**30

    def max_tile_side(self, working_bytes: int, free: int, margin: int = 0) -> int:
        """Return the side of the largest tile whose window takes at most half of the free bytes.

        Args:
            working_bytes: peak memory in bytes for each position of the window.
            free: free memory in bytes.
            margin: positions on each side of the tile, which are a part of the window.
        """
        available = min(self.max_window_bytes, free // 2)
        return max(1, math.isqrt(available // max(1, working_bytes)) - 2 * margin)

    def patches(self, height: int, width: int, multiple: int) -> Iterator[tuple[slice, slice]]:
        """Yield rows and columns of patches of one size that are spread evenly over a state.

        They cover a small state. Every start is a multiple of `multiple`.
        """
        side = round_up(self.patch, multiple)
        down, across = math.ceil(height / side), math.ceil(width / side)
        rows = min(down, self.max_patches, max(1, round(math.sqrt(self.max_patches * height / width))))
        columns = min(across, self.max_patches // rows)
        rows = min(down, self.max_patches // columns)
        for row in _spread(height, side, rows, multiple):
            for column in _spread(width, side, columns, multiple):
                yield row, column


class Window(NamedTuple):
    """A piece of a line: `outer`, with margins, is computed, and `inner` of it is kept."""

    outer: slice
    inner: slice

    @property
    def within(self) -> slice:
        """The slice of `inner`, counted from the start of `outer`."""
        return slice(self.inner.start - self.outer.start, self.inner.stop - self.outer.start)

    def over(self, factor: int) -> "Window":
        """Return the window on a line that is `factor` times coarser."""
        outer = slice(self.outer.start // factor, self.outer.stop // factor)
        return Window(outer, slice(self.inner.start // factor, self.inner.stop // factor))


def windows(length: int, tile: int, margin: int, multiple: int = 1) -> Iterator[Window]:
    """Yield windows whose inner parts cut a line into pieces of nearly equal length.

    Args:
        tile: largest length of an inner part, which has at least `multiple` positions.
        margin: on both sides of an inner part, but not beyond the ends of the line.
        multiple: every start is a multiple of it, and every end but that of the line.
    """
    count = math.ceil(length / max(multiple, tile - tile % multiple))
    step = round_up(math.ceil(length / count), multiple)
    margin = round_up(margin, multiple)
    for start in range(0, length, step):
        stop = min(start + step, length)
        outer = slice(max(0, start - margin), min(stop + margin, length))
        yield Window(outer, slice(start, stop))


class Tiles:
    """The tiles of one restoration. When memory runs out they are halved for the rest of it.

    Args:
        side: of a tile, in positions.
        smallest: smallest side to which tiles are halved.
        report: receives a notice when they are halved.
    """

    def __init__(self, side: int, smallest: int, report: Report = ignore) -> None:
        self.side, self.smallest, self.report = side, smallest, report

    def sweep(
        self,
        size: tuple[int, int],
        margin: int,
        multiple: int,
        work: Callable[[Window, Window], None],
        bands: bool = False,
    ) -> None:
        """Call `work` with the rows and columns of every tile; after halving, with those of all new tiles.

        Args:
            size: height and width of the picture or state.
            margin, multiple: see `windows`.
            bands: tiles are as wide as the picture; with margins they have as many positions as a square
                tile with its margins.

        Raises:
            RuntimeError or MemoryError: from `work`, if not for lack of memory, or with the smallest tiles.
        """
        release_freed_memory()
        while True:
            try:
                height, width = self._band(size[1], margin, multiple) if bands else (self.side, self.side)
                for rows in windows(size[0], height, margin, multiple):
                    for columns in windows(size[1], width, margin, multiple):
                        work(rows, columns)
                release_freed_memory()  # that of windows is of no use to what comes next
                return
            except (MemoryError, RuntimeError) as error:
                if self.side <= self.smallest or not is_oom(error):
                    raise
            self.side = max(self.smallest, self.side // 2)  # here the failed call's tensors are gone
            self.report(Notice("out-of-memory", f"out of memory: going on in tiles of {self.side}"))

    def _band(self, length: int, margin: int, multiple: int) -> tuple[int, int]:
        width = round_up(length, multiple)
        return (self.side + 2 * margin) ** 2 // width - 2 * margin, width


def is_oom(error: BaseException) -> bool:
    """Return whether an error means lack of memory: Python's, CUDA's, Apple's, or the CPU's on any system."""
    messages = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")
    kinds = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or any(message in str(error) for message in messages)


class TiledNetwork(Network):
    """A network that runs on a state of any size in tiles, inside every call.

    The receptive field of convolutions is bounded, so a margin makes tiles exact. Channel attention uses
    means over the picture; means over a tile would differ between tiles, and their borders would show. So
    every call measures the means in one pass over up to 16 patches of 128 x 128 positions, spread evenly over
    the state, and all tiles use these. They compute one function, so there are no seams; and neither that
    function nor the margin depends on the size of the tiles, so the result does not either.

    Each picture of a batch runs alone. Make one for each restoration: its tiles halve when memory runs out.

    A network of several views runs on those of one scene together, and its tiles are bands of full width,
    since a point of one view may be anywhere on the same row of another. Patches are not as wide: taken at
    the same places of all views, they miss only points that moved out of the patch, and only means are
    measured on them, one for each view. The last band is padded with rows of zeros to a multiple of
    `multiple`, so that all bands compute one function: that of a picture padded like this.

    Args:
        network: the network to run; its `reach` is not None.
        tile: side of the tiles in positions of the state, without margins; bands have as many positions.
        policy: sizes of patches, margins and the smallest tile.
        report: receives a notice when tiles are halved.
    """

    def __init__(
        self, network: Network, tile: int, policy: TilingPolicy = TilingPolicy(), report: Report = ignore
    ) -> None:
        super().__init__()
        assert network.reach is not None
        self.network, self.policy = network, policy
        self.declare_like(network)
        self.margin = min(network.reach, policy.max_margin)
        self.tiles = Tiles(tile, policy.min_state_tile, report)

    def embed(
        self, t: Float[Tensor, " b"], condition: Float[Tensor, "b conditions"] | None = None
    ) -> Float[Tensor, "b modulations"]:
        return self.network.embed(t, condition)

    def forward(
        self,
        x_t: Float[Tensor, "b c h w"],
        mu: Float[Tensor, "b seen h w"],
        t: Float[Tensor, " b"],
        embedding: Float[Tensor, "b modulations"] | None = None,
        pool: Pool = whole_mean,
    ) -> Float[Tensor, "b c h w"]:
        """Return the prediction, see `Network.forward`; means are measured on patches, `pool` is not used."""
        embedding = self.embed(t) if embedding is None else embedding
        output = torch.empty_like(x_t)
        for i in range(0, len(x_t), self.num_views):
            scene = slice(i, i + self.num_views)
            self._fill(output[scene], x_t[scene], mu[scene], t[scene], embedding[scene])
        return output

    def _fill(self, output: Tensor, x_t: Tensor, mu: Tensor, t: Tensor, embedding: Tensor) -> None:
        """Write the prediction for one scene to `output`, tile by tile."""
        means = self._means(x_t, mu, t, embedding)
        bands = self.num_views > 1

        def work(rows: Window, columns: Window) -> None:
            outer = (..., rows.outer, columns.outer)
            missing = (rows.outer.start - rows.outer.stop) % self.multiple if bands else 0
            x_tile = F.pad(x_t[outer], (0, 0, 0, missing))
            mu_tile = F.pad(mu[outer], (0, 0, 0, missing))
            tile = self.network.with_means(x_tile, mu_tile, t, embedding, means)
            output[..., rows.inner, columns.inner] = tile[..., rows.within, columns.within]

        self.tiles.sweep((x_t.shape[-2], x_t.shape[-1]), self.margin, self.multiple, work, bands)

    def _means(self, x_t: Tensor, mu: Tensor, t: Tensor, embedding: Tensor) -> list[Tensor]:
        """Return the means of each view over all patches, in the order in which the network takes them."""
        places = list(self.policy.patches(x_t.shape[-2], x_t.shape[-1], self.multiple))
        x_patches = torch.cat([x_t[..., rows, columns] for rows, columns in places])
        mu_patches = torch.cat([mu[..., rows, columns] for rows, columns in places])
        count = len(places)
        return self.network.measure_means(x_patches, mu_patches, t.repeat(count), embedding.repeat(count, 1))


def _spread(length: int, side: int, count: int, multiple: int) -> Iterator[slice]:
    free = max(0, length - side)
    starts = (free * i // (count - 1) if count > 1 else free // 2 for i in range(count))
    for start in dict.fromkeys(start - start % multiple for start in starts):
        yield slice(start, min(start + side, length))


def round_up(value: int, multiple: int) -> int:
    """Round a value up to a multiple."""
    return -(-value // multiple) * multiple


def least_bytes(network: Network, height: int, width: int, policy: TilingPolicy, tile: int | None) -> int:
    """Return the memory that a network takes at least for a scene, besides the states: in the smallest tiles.

    Args:
        network: the network.
        height, width: of a state.
        policy: the sizes at which tiling begins.
        tile: side of the tiles in positions; by default the smallest.
    """
    positions = height * width
    if network.reach is not None:
        window = (max(policy.min_state_tile, tile or 0) + 2 * min(network.reach, policy.max_margin)) ** 2
        positions = min(positions, max(window, policy.max_patches * policy.patch**2))
    return network.num_views * positions * network.working_bytes


def with_tiling(
    network: Network,
    states: Float[Tensor, "b c h w"],
    free: int,
    tile: int | None = None,
    policy: TilingPolicy = TilingPolicy(),
    report: Report = ignore,
) -> Network:
    """Return the network for states of this size: itself, or a `TiledNetwork` if they are too large.

    Args:
        states: the states on which it will run.
        free: bytes of memory that may be used.
        tile: side of the tiles in positions; by default the largest that fits in the free bytes.
        policy: the sizes at which tiling begins.
        report: receives a notice if states are cut into tiles.
    """
    batch, _, height, width = states.shape
    positions = height * width
    small = positions <= policy.max_patches * policy.patch**2  # the patches would need as much memory
    if small or network.reach is None:
        return network
    # Two views always run in bands: padded differently, their attention would see another grid of positions.
    fits = positions <= policy.max_whole and batch * positions * network.working_bytes <= free // 2
    if tile is None and fits and network.num_views == 1:
        return network
    scene_bytes = network.num_views * network.working_bytes
    side = max(policy.min_state_tile, tile or policy.max_tile_side(scene_bytes, free, policy.max_margin))
    text = f"state of {width}x{height}: tiles of {side}, {free / 2**30:.1f} GiB free"
    report(Notice("network-tiled", text))
    return TiledNetwork(network, side, policy, report)
