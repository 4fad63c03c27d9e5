"""What a sample is given does not depend on how its step is divided into batches and processes."""

import pytest
import torch
from torch import Tensor

from refusion.training.randomness import StepRandom, seed_of

SCENES = 12


def numbers(first: int, count: int) -> list[Tensor]:
    """Return all that training draws, in turn."""
    generator = torch.Generator().manual_seed(seed_of(3, 24))
    random = StepRandom(generator, torch.device("cpu"), SCENES, first, count)
    chance, chances = random.chances(2)
    return [
        random.integers(1, 101),
        random.uniform(),
        random.normal((3, 4, 5)),
        torch.full((count,), chance),
        chances.view(count, 2),
    ]


@pytest.mark.parametrize("parts", [[12], [6, 6], [3] * 4, [1] * 12, [5, 7]])
def test_any_division_gives_the_same(parts: list[int]) -> None:
    firsts = [sum(parts[:i]) for i in range(len(parts))]
    drawn = zip(*(numbers(first, count) for first, count in zip(firsts, parts, strict=True)), strict=True)
    for whole, divided in zip(numbers(0, SCENES), drawn, strict=True):
        assert torch.equal(torch.cat(divided), whole)


def test_an_undivided_step_is_drawn_as_it_always_was() -> None:
    """So that a run that an earlier version began goes on to the same bits."""
    generator = torch.Generator().manual_seed(seed_of(3, 24))
    chances = torch.rand(1 + 2 * SCENES, generator=generator)
    expected = [
        torch.randint(1, 101, (SCENES,), generator=generator),
        torch.rand(SCENES, generator=generator),
        torch.randn((SCENES, 3, 4, 5), generator=generator),
        chances[0].expand(SCENES),
        chances[1:].view(SCENES, 2),
    ]
    for ours, theirs in zip(numbers(0, SCENES), expected, strict=True):
        assert torch.equal(ours, theirs)


def test_samples_and_steps_get_numbers_of_their_own() -> None:
    _, uniform, normal, _, _ = numbers(0, SCENES)
    assert len(uniform.unique()) == SCENES
    assert len(normal.unique()) == normal.numel()
    assert len({seed_of(seed, number) for seed in range(10) for number in range(10)}) == 100
