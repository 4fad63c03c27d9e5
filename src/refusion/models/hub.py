"""Models on the Hugging Face hub: folders of a model file and a README with its card."""

import re
import shutil
from pathlib import Path
from types import ModuleType

import torch
import yaml

from refusion.errors import CheckpointError, RefusionError, first_line
from refusion.files import atomic
from refusion.models import checkpoint
from refusion.models.checkpoint import MODEL, Header, Model

README = "README.md"


def save_pretrained(model: str | Path, folder: str | Path) -> Path:
    """Write a model and its card to a folder, which `refusion.load` and `from_pretrained` read.

    Args:
        model: see `refusion.load`.

    Returns:
        The folder.

    Raises:
        CheckpointError: the model does not exist or is damaged.
    """
    source, folder = checkpoint.resolve(model), Path(folder)
    card = model_card(checkpoint.read_header(source))
    folder.mkdir(parents=True, exist_ok=True)
    if source.resolve() != (folder / MODEL).resolve():
        with atomic(folder / MODEL) as part:
            shutil.copyfile(source, part)
    with atomic(folder / README) as part:
        part.write_text(card, encoding="utf-8")
    return folder


def from_pretrained(model: str | Path, device: str | torch.device | None = None) -> Model:
    """Load a model from a folder, a file, a bundled name, or by "owner/name" from the hub.

    Files have precedence, and "owner/name" is not looked up on the hub if there is a folder "owner".

    Raises:
        CheckpointError: see `refusion.load`; or the hub has no such model, or cannot be reached.
        RefusionError: the model must be downloaded, and huggingface_hub is not installed.
    """
    path = Path(model)
    named = re.fullmatch(r"[\w.-]+/[\w.-]+", str(model), re.ASCII)
    if path.exists() or named is None or path.parent.is_dir():
        return checkpoint.load(model, device)
    hub = _library()
    try:
        file = hub.hf_hub_download(str(model), MODEL)
    except (OSError, ValueError) as error:  # the library raises these for all failures
        said = first_line(error)
        raise CheckpointError(f"{model}: neither here nor on the hub ({said}); check name and net") from error
    return checkpoint.load(file, device)


def push_to_hub(model: str | Path, name: str, private: bool = False, token: str | None = None) -> str:
    """Upload a model and its card.

    Args:
        model: see `refusion.load`.
        name: "owner/name" on the hub; created if it does not exist.
        private: whether a new repository is private.
        token: of the owner; by default that of `hf auth login`.

    Returns:
        The address of the upload.

    Raises:
        CheckpointError: see `save_pretrained`; or the hub refuses.
        RefusionError: huggingface_hub is not installed.
    """
    hub, source = _library(), checkpoint.resolve(model)
    card = model_card(checkpoint.read_header(source))
    api = hub.HfApi(token=token)
    files = {MODEL: source, README: card.encode()}
    try:
        api.create_repo(name, private=private, exist_ok=True)
        adds = [hub.CommitOperationAdd(path, content) for path, content in files.items()]
        done = api.create_commit(name, adds, commit_message="Upload a model of refusion")
    except Exception as error:  # some are errors of its HTTP client
        said = first_line(error)
        raise CheckpointError(f"{name}: not uploaded ({said}); check name, token and net") from error
    return str(done.commit_url)


def model_card(header: Header) -> str:
    """Return the README.md of a model on the hub: front matter, then its card and recipe as text."""
    card = header.card
    front = {
        "library_name": "refusion",
        "pipeline_tag": "image-to-image",
        "tags": ["refusion", "image-restoration", "diffusion", card.task],
        "license": "other",
    }
    use = (
        "```python\nfrom refusion import read, write\nfrom refusion.models import hub\n\n"
        'restore = hub.from_pretrained("owner/name")  # or this folder\n'
        'write(restore(read("photo.jpg")), "restored.png")\n```'
    )
    recipe = yaml.safe_dump(dict(header.recipe), sort_keys=False)
    sections = {
        "Use": use,
        "Data": card.data,
        "Training": card.training,
        "Measured": _table(card.metrics),
        "Limits": card.limits,
        "Terms": card.terms,
        "Recipe": f"{header.parameters:,} parameters\n\n```yaml\n{recipe}```",
    }
    parts = [f"---\n{yaml.safe_dump(front, sort_keys=False)}---", f"# {card.task}", card.summary]
    parts += [f"## {title}\n\n{text}" for title, text in sections.items() if text]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(metrics: dict[str, float]) -> str:
    rows = [f"| {name} | {value:g} |" for name, value in metrics.items()]
    return "\n".join(["| | |", "|---|---|", *rows]) if rows else ""


def _library() -> ModuleType:
    try:
        import huggingface_hub
    except ModuleNotFoundError as error:
        raise RefusionError("the hub needs huggingface_hub: pip install 'refusion[hub]'") from error
    return huggingface_hub
