"""Pictures of any size in bounded memory: pieces are computed one by one with margins and kept without.

The geometry is that of a line; a picture has it twice.
"""

import logging
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Pool = Callable[[Tensor], Tensor]
"""Features (b, c, h, w) -> what stands for them in a channel attention, (b or 1, c, 1, 1)."""

LARGEST_WHOLE = 2**19
"""Positions of a state above which a network always sees it in tiles, however much memory there is, so
that its result is the same on every machine. So many has the latent of 33 megapixels reduced 8 times."""
LARGEST_MARGIN = 64
"""Positions. What is further away could reach a window through the deepest blocks, but does not count: with
the bundled model, which reaches 55, a margin of 24 errs by up to 6e-3, 32 by 3e-4, 40 by 2e-5, 48 by 5e-7."""
PATCH, PATCHES = 128, 16
"""Side in positions, and most in number, of the windows from which statistics are measured."""
SMALLEST = 128
"""Side in pixels of a picture's tiles; smaller ones would be all margin."""
SMALLEST_OF_STATE = 256
"""Side in positions of a state's tiles; smaller ones would not save memory, as the patches need more."""
ROOM = 2**30
"""Bytes that a window takes at most, also where there is more: larger ones are hardly faster."""

log = logging.getLogger("refusion")


@runtime_checkable
class Network(Protocol):
    """What sampling asks of a network; `ConditionalNAFNet` says what each part is.

    Only a network that takes conditions is given one to embed.
    """

    def embed(self, t: Tensor, *condition: Tensor) -> Tensor: ...

    def __call__(self, x_t: Tensor, mu: Tensor, t: Tensor, embedding: Tensor | None = None) -> Tensor: ...


@runtime_checkable
class Tileable(Network, Protocol):
    """What is asked of it besides, when the state is large.

    One that sees several pictures of a scene together says how many in `views`.
    """

    multiple: int

    @property
    def reach(self) -> int: ...

    @property
    def working_bytes(self) -> int: ...

    def __call__(
        self, x_t: Tensor, mu: Tensor, t: Tensor, embedding: Tensor | None = None, pool: Pool = ...
    ) -> Tensor: ...


def whole_mean(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c 1 1"]:
    """The mean over the picture."""
    return F.adaptive_avg_pool2d(x, 1)


class Window(NamedTuple):
    """A piece of a line: `outer` is looked at, of which `inner` is kept."""

    outer: slice
    inner: slice

    @property
    def within(self) -> slice:
        """`inner`, counted from the start of `outer`."""
        return slice(self.inner.start - self.outer.start, self.inner.stop - self.outer.start)

    def over(self, factor: int) -> "Window":
        """The same piece where `factor` positions are one."""
        return Window(*(slice(part.start // factor, part.stop // factor) for part in self))


def windows(length: int, tile: int, margin: int, multiple: int = 1) -> Iterator[Window]:
    """Cut a line into pieces of nearly equal length.

    Args:
        tile: largest length of an inner part; at least one `multiple` is taken.
        margin: of every window on both sides; at the line's ends there is none.
        multiple: every start is one, and every end but that of the line.
    """
    count = math.ceil(length / max(multiple, tile - tile % multiple))
    step = _raised(math.ceil(length / count), multiple)
    margin = _raised(margin, multiple)
    for start in range(0, length, step):
        stop = min(start + step, length)
        outer = slice(max(0, start - margin), min(stop + margin, length))
        yield Window(outer, slice(start, stop))


def fitting(working_bytes: int, free: int, margin: int = 0) -> int:
    """Side of the largest tile whose window takes no more than `ROOM` and half of the free bytes.

    Args:
        working_bytes: for each position of the window.
    """
    room = min(ROOM, free // 2)
    return max(1, math.isqrt(room // max(1, working_bytes)) - 2 * margin)


class Tiles:
    """The tiles of one restoration. Where memory ends they halve, and stay so.

    Args:
        side: in positions.
        smallest: no smaller ones are tried.
    """

    def __init__(self, side: int, smallest: int) -> None:
        self.side, self.smallest = side, smallest

    def sweep(
        self,
        size: tuple[int, int],
        margin: int,
        multiple: int,
        work: Callable[[Window, Window], None],
        bands: bool = False,
    ) -> None:
        """Call `work` with the rows and columns of every tile; with all of them again after halving.

        Args:
            bands: tiles are as wide as the picture, and as high as gives them, with their margins, the
                positions of a square one with its own.

        Raises:
            RuntimeError or MemoryError: `work` did, and not for lack of memory or with the smallest tiles.
        """
        while True:
            try:
                height, width = self._band(size[1], margin, multiple) if bands else (self.side, self.side)
                for rows in windows(size[0], height, margin, multiple):
                    for columns in windows(size[1], width, margin, multiple):
                        work(rows, columns)
                return
            except (MemoryError, RuntimeError) as error:
                if self.side <= self.smallest or not lacks_memory(error):
                    raise
            self.side = max(self.smallest, self.side // 2)  # here the failed call's tensors are gone
            log.info("out of memory: going on in tiles of %d", self.side)

    def _band(self, length: int, margin: int, multiple: int) -> tuple[int, int]:
        width = _raised(length, multiple)
        return (self.side + 2 * margin) ** 2 // width - 2 * margin, width


def lacks_memory(error: BaseException) -> bool:
    """Whether an allocator said no: Python's, CUDA's, Apple's, or the CPU's on Linux or Windows."""
    said = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")
    kinds = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or any(words in str(error) for words in said)


class TiledNetwork:
    """A network that sees a state of any size in windows, inside every call.

    Convolutions see their surroundings only, so a margin makes windows exact. Channel attention sees a
    mean over the picture; over a window it would differ from one to the next, and the borders would
    show. So the means are measured once a call: one pass over up to 16 patches of 128 x 128 positions,
    spread evenly over the state, in which every mean is taken over all of them. Every tile is then
    given these. All tiles compute one function, so no seam can arise; and neither that function nor the
    margin depends on the tile, so the result does not either.

    Of a batch each picture is done alone. Make one for each restoration: its tiles halve where memory ends.

    A network of several `views` is given those of one scene together, and its tiles are bands of full
    width, since a point of one view may be anywhere on the same row of another. Patches are not so wide:
    with all views at the same places they miss only points that left the patch, and only means are taken
    from them, one for each view. The last band is filled up with rows of zeros to a whole `multiple`, so
    that all bands compute one function: that of a picture filled up like this.

    Args:
        network: the one to run.
        tile: side of the tiles in positions of the state, without margins; bands have as many positions.
    """

    def __init__(self, network: Tileable, tile: int) -> None:
        self.network = network
        self.views = views(network)
        self.tiles = Tiles(tile, SMALLEST_OF_STATE)

    def embed(self, t: Float[Tensor, " b"], *condition: Float[Tensor, "b conditions"]) -> Tensor:
        return self.network.embed(t, *condition)

    def __call__(
        self,
        x_t: Float[Tensor, "b c h w"],
        mu: Float[Tensor, "b c h w"],
        t: Float[Tensor, " b"],
        embedding: Float[Tensor, "b modulations"] | None = None,
    ) -> Float[Tensor, "b c h w"]:
        embedding = self.embed(t) if embedding is None else embedding
        output = torch.empty_like(x_t)
        for i in range(0, len(x_t), self.views):
            one = slice(i, i + self.views)
            self._restore(output[one], x_t[one], mu[one], t[one], embedding[one])
        return output

    def _restore(self, output: Tensor, x_t: Tensor, mu: Tensor, t: Tensor, embedding: Tensor) -> None:
        """Fill `output`, window by window."""
        means = self._measure(x_t, mu, t, embedding)
        network, bands = self.network, self.views > 1

        def work(rows: Window, columns: Window) -> None:
            outer = (..., rows.outer, columns.outer)
            missing = (rows.outer.start - rows.outer.stop) % network.multiple if bands else 0
            there, origin = (F.pad(x[outer], (0, 0, 0, missing)) for x in (x_t, mu))
            replay = iter(means)
            done = network(there, origin, t, embedding, pool=lambda _: next(replay))
            output[..., rows.inner, columns.inner] = done[..., rows.within, columns.within]

        margin = min(network.reach, LARGEST_MARGIN)
        self.tiles.sweep((x_t.shape[-2], x_t.shape[-1]), margin, network.multiple, work, bands)

    def _measure(self, x_t: Tensor, mu: Tensor, t: Tensor, embedding: Tensor) -> list[Tensor]:
        """The means of each view that the network takes, in its order, each over all patches together."""
        means: list[Tensor] = []

        def pool(x: Tensor) -> Tensor:
            means.append(x.reshape(-1, self.views, *x.shape[1:]).mean((0, 3, 4))[..., None, None])
            return means[-1].repeat(len(x) // self.views, 1, 1, 1)

        places = list(patches(x_t.shape[-2], x_t.shape[-1], self.network.multiple))
        there, origin = (torch.cat([x[..., rows, columns] for rows, columns in places]) for x in (x_t, mu))
        count = len(places)
        self.network(there, origin, t.repeat(count), embedding.repeat(count, 1), pool=pool)
        return means


def patches(height: int, width: int, multiple: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of equal windows that are spread evenly; they cover what is small enough."""
    side = _raised(PATCH, multiple)
    most = (math.ceil(height / side), math.ceil(width / side))
    down = min(most[0], PATCHES, max(1, round(math.sqrt(PATCHES * height / width))))
    across = min(most[1], PATCHES // down)
    down = min(most[0], PATCHES // across)
    for rows in _spread(height, side, down, multiple):
        for columns in _spread(width, side, across, multiple):
            yield rows, columns


def _spread(length: int, side: int, count: int, multiple: int) -> Iterator[slice]:
    free = max(0, length - side)
    for i in range(count):
        start = free * i // (count - 1) if count > 1 else free // 2
        start -= start % multiple
        yield slice(start, min(start + side, length))


def _raised(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def views(network: object) -> int:
    """Pictures of one scene that a network sees together: 2 for stereo."""
    count: int = getattr(network, "views", 1)
    return count


def conditions(network: object) -> int:
    """Numbers that a network is told of each picture, besides the time."""
    count: int = getattr(network, "conditions", 0)
    return count


def suited(network: nn.Module, states: Float[Tensor, "b c h w"], tile: int | None, free: int) -> Network:
    """The network for states of this size: itself, or a `TiledNetwork` if they are too large and it is
    `Tileable`.

    Args:
        tile: side in positions; by default what the free bytes allow.
    """
    whole: Tileable = network  # type: ignore[assignment]  # nn.Module's call is untyped
    batch, _, height, width = states.shape
    positions = height * width
    small = positions <= PATCHES * PATCH**2  # the patches would need as much memory
    if small or not isinstance(network, Tileable):
        return whole
    # Padded to other multiples, two views find other grid points in each other: bands agree only with bands.
    fits = positions <= LARGEST_WHOLE and batch * positions * whole.working_bytes <= free // 2
    fits = fits and views(network) == 1
    if tile is None and fits:
        return whole
    together = views(network) * whole.working_bytes
    side = max(SMALLEST_OF_STATE, tile or fitting(together, free, LARGEST_MARGIN))
    log.info("state of %dx%d: tiles of %d, %.1f GiB free", width, height, side, free / 2**30)
    return TiledNetwork(whole, side)
