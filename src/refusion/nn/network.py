"""The protocol of a network: what it declares of itself, and how it is called."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from refusion.nn.pooling import Pool, whole_mean
from refusion.nn.precision import PRECISIONS, Precision


class Network(nn.Module, ABC):
    """A network: (x_t, mu, t) -> a tensor like x_t, of any height and width.

    A subclass sets the attributes below where they differ from these defaults.
    """

    num_views: int = 1
    """Pictures of one scene that the network sees together, consecutive in a batch; 2 for stereo."""
    num_conditions: int = 0
    """Numbers in the condition of each picture, as for lenses; the time is not counted."""
    num_guides: int = 0
    """Maps beside the picture, such as a mask, whose states the network sees after the channels of mu."""
    sees_lq: bool = False
    """Whether the network sees the state of the degraded picture, after those of the guides; for models with
    a mean stage, whose estimate takes the place of mu."""
    conditional: bool = True
    """Whether the network sees mu; the denoising SDE has none."""
    multiple: int = 1
    """Step of a grid: tiles that start at multiples of this compute the same as the whole state."""
    reach: int | None = None
    """Receptive field: positions around a tile that its output depends on, apart from the means of `pool`.
    None if the network runs on whole states only."""
    local: tuple[int, ...] = ()
    """Height and width of the training states, if channel attention takes means over windows of that size;
    empty if it takes them over the whole state."""
    working_bytes: int = 0
    """Peak memory in bytes for each position of the state, as measured."""
    traceable: bool = True
    """Whether one graph computes states of all sizes, as ONNX needs it."""
    precisions: tuple[Precision, ...] = PRECISIONS
    """The precisions in which the network can multiply."""

    @abstractmethod
    def embed(
        self, t: Float[Tensor, " b"], condition: Float[Tensor, "b conditions"] | None = None
    ) -> Float[Tensor, "b modulations"]:
        """Return all that depends on time and condition alone; sampling computes it once for all steps."""

    @abstractmethod
    def forward(
        self,
        x_t: Float[Tensor, "b c h w"],
        mu: Float[Tensor, "b seen h w"],
        t: Float[Tensor, " b"],
        embedding: Float[Tensor, "b modulations"] | None = None,
        pool: Pool = whole_mean,
    ) -> Float[Tensor, "b c h w"]:
        """Return the prediction at integer training time t.

        Args:
            mu: and after its channels what else the network sees, see `Codec.seen`.
            embedding: `embed(t, condition)`; by default `embed(t)`.
            pool: computes the means of the channel attention.
        """

    def measure_means(
        self,
        x_t: Float[Tensor, "b c h w"],
        mu: Float[Tensor, "b seen h w"],
        t: Float[Tensor, " b"],
        embedding: Float[Tensor, "b modulations"],
    ) -> list[Float[Tensor, "views _ 1 1"]]:
        """Return the means of each channel attention in turn, for each view over all pictures of the batch.

        The pictures see these means, too.
        """
        means: list[Tensor] = []

        def pool(x: Tensor) -> Tensor:
            means.append(x.reshape(-1, self.num_views, *x.shape[1:]).mean((0, 3, 4))[..., None, None])
            return means[-1].repeat(len(x) // self.num_views, 1, 1, 1)

        self(x_t, mu, t, embedding, pool=pool)
        return means

    def with_means(
        self,
        x_t: Float[Tensor, "views c h w"],
        mu: Float[Tensor, "views seen h w"],
        t: Float[Tensor, " views"],
        embedding: Float[Tensor, "views modulations"],
        means: Sequence[Float[Tensor, "views _ 1 1"]],
    ) -> Float[Tensor, "views c h w"]:
        """Return the prediction for a scene with means of `measure_means`."""
        replay = iter(means)
        return self(x_t, mu, t, embedding, pool=lambda _: next(replay))

    def declare_like(self, network: "Network") -> None:
        """Declare the same attributes as another network, which this one runs."""
        self.num_views, self.num_conditions = network.num_views, network.num_conditions
        self.num_guides, self.sees_lq = network.num_guides, network.sees_lq
        self.conditional, self.local = network.conditional, network.local
        self.multiple, self.reach, self.working_bytes = network.multiple, network.reach, network.working_bytes
        self.traceable, self.precisions = network.traceable, network.precisions

    def check(self, views: int, conditions: int | None = None, guides: int = 0) -> None:
        """Check that the network takes a scene of so many views, conditions and guides.

        Args:
            views: pictures of the scene.
            conditions: numbers in its condition; None if that number is not known yet.
            guides: maps beside each picture; 0 if there are none, which every network takes.

        Raises:
            ValueError: the network takes another number of views, conditions or guides.
        """
        if views != self.num_views:
            expected = "a left and a right view" if self.num_views > 1 else "one picture at a time"
            raise ValueError(f"{views} pictures: this model takes {expected}")
        if conditions is not None and conditions != self.num_conditions:
            raise ValueError(f"condition has {conditions} numbers: this model takes {self.num_conditions}")
        if guides not in (0, self.num_guides):
            raise ValueError(f"{guides} guides: this model takes {self.num_guides or 'none'}")
