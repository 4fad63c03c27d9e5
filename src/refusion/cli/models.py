"""The commands `models`, `info`, `import` and `export`."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from refusion.cli.console import say
from refusion.cli.flags import Out, PublishedOverrides
from refusion.cli.threads import Threads
from refusion.restoring.threads import use_threads

if TYPE_CHECKING:
    from refusion.models.spec import Card


def models() -> None:
    """List the bundled models."""
    from refusion.models.checkpoint import bundled_models, read_header

    for path in bundled_models():
        header = read_header(path)
        card, size = header.card, path.stat().st_size / 1e6
        say(f"{path.stem}: {card.task}, {header.parameters / 1e6:.1f} M parameters, {size:.0f} MB")
        for line in (card.summary, card.terms, _metrics(card)):
            say(f"    {line}")


def info(model: str, *, recipe: Annotated[bool, Parameter(negative="")] = False) -> None:
    """Print the card and the spec of a model.

    Args:
        model: A bundled name or a file.
        recipe: Print only the recipe of its training, a file for `refusion train`.
    """
    import yaml

    from refusion.models.checkpoint import read_header, resolve
    from refusion.training.recipe import from_provenance

    header = read_header(resolve(model))
    if recipe:
        print(from_provenance(header).to_yaml(), end="")  # YAML escapes what is not printable
        return
    card = header.card
    for name in ("task", "summary", "data", "terms", "training", "limits"):
        if text := getattr(card, name):
            say(f"{name}: {text}")
    spec = yaml.safe_dump(header.spec.model_dump(mode="json"), sort_keys=False)
    say(f"measured: {_metrics(card)}")
    if card.std_scale != 1:
        say(f"deviation of samples: times {card.std_scale:g}")
    print(f"parameters: {header.parameters}\n\n{spec}", end="")


def _metrics(card: "Card") -> str:
    return ", ".join(f"{name} {value:g}" for name, value in card.metrics.items())


def import_(
    *files: Annotated[Path, Parameter(required=True)],
    out: Out = Path("model.safetensors"),
    task: str | None = None,
    partner: Path | None = None,
    overrides: PublishedOverrides = PublishedOverrides(),
) -> None:
    """Convert published weights of IR-SDE or Refusion to a model.

    Args:
        files: The weights of the network and, for a latent model, of its autoencoder.
        out: The file of the model, for all commands.
        task: The task of the weights; needed if their shapes fit several tasks.
        partner: The weights of the autoencoder, if not among the files.
    """
    from refusion.models.checkpoint import save
    from refusion.published.import_ import imported

    model = imported([*files, *([partner] if partner else [])], task, **overrides.facts())
    save(out, model.restorer, model.spec, model.card)
    for line in (*model.notes, out):
        say(line)


def export(model: str, *, out: Out, to: Literal["published", "onnx", "hub"], threads: Threads = None) -> None:
    """Write a model for other programs.

    Args:
        model: A bundled name or a file.
        out: A file NAME.pth or NAME.safetensors for published keys; else a folder.
        to: Weights with published keys, graphs for ONNX, or a folder for the Hugging Face hub.
    """
    use_threads(threads)
    from refusion.backends import onnx
    from refusion.models import hub
    from refusion.published import export as published

    writers: dict[str, Callable[[str, Path], Iterable[object]]] = {
        "published": published.write_published,
        "onnx": onnx.to_onnx,
        "hub": lambda model, folder: [hub.save_pretrained(model, folder)],
    }
    for line in writers[to](model, out):
        say(line)
