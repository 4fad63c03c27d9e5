"""Every recipe of the package, and the example of a new task: what it says, costs and makes."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
import yaml

import refusion
from command import Run
from refusion.errors import RecipeError
from refusion.imaging.arrays import from_array
from refusion.imaging.formats import read, write
from refusion.imaging.image import Image
from refusion.models.checkpoint import bundled_models, read_header
from refusion.training.recipe import RECIPES, Recipe, from_provenance, load_yaml, parse, resolve

ROOT = Path(__file__).parents[2]
FILES = sorted(RECIPES.glob("*.yaml"))
every_recipe = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
every_model = pytest.mark.parametrize("file", list(bundled_models()), ids=lambda file: file.stem)
CONDITION = (-14.0, 160.0, 42.0)


def test_there_are_recipes() -> None:
    assert len(FILES) >= 2


# ---- where it is


@every_recipe
def test_it_lies_in_the_package_and_is_found_by_name(file: Path) -> None:
    assert Path(refusion.__file__).parent in file.parents
    assert resolve(file.stem) == file
    assert resolve(file) == resolve(str(file)) == file


@pytest.mark.slow
@every_model
def test_a_bundled_model_has_a_recipe_of_its_name(file: Path) -> None:
    described, header = load_yaml(resolve(file.stem)), read_header(file)
    assert described.task == header.card.task
    assert described.model.network == header.spec.network


@pytest.mark.parametrize(
    ("wrong", "right"), [("shadow-remova", "shadow-removal"), ("derainig", "deraining"), ("boke", "bokeh")]
)
def test_a_misspelt_name_is_told_the_right_one(run: Run, wrong: str, right: str) -> None:
    with pytest.raises(RecipeError, match=rf"^{wrong}: .*did you mean {right}\?.*bundled are .*{right}"):
        resolve(wrong)
    said = run("train", wrong, "--dry-run")
    assert (said.status, said.out, said.err.count("\n")) == (1, "", 1)
    assert f"did you mean {right}?" in said.err


def test_a_name_like_none_lists_what_there_is() -> None:
    with pytest.raises(RecipeError) as caught:
        resolve("zzz")
    assert "did you mean" not in str(caught.value)
    for file in FILES:
        assert file.stem in str(caught.value)


def test_a_file_comes_before_a_bundled_recipe(here: Path) -> None:
    (here / "deraining").write_text(FILES[0].read_text())
    assert resolve("deraining") == Path("deraining")
    (here / "dehazing").mkdir()  # say, of pairs
    assert resolve("dehazing").parent == RECIPES
    assert resolve("missing.yaml") == Path("missing.yaml")  # reading it says what is wrong
    with pytest.raises(RecipeError, match=r"^missing\.yaml: .*give a recipe file"):
        load_yaml(resolve("missing.yaml"))


@pytest.mark.slow
@every_model
def test_the_recipe_of_a_bundled_model_trains_again(run: Run, file: Path) -> None:
    """`info --recipe` prints it, and `train` takes it."""
    said = run("info", file.stem, "--recipe")
    assert (said.status, said.err) == (0, "")
    Path("again.yaml").write_text(said.out)
    again, header = load_yaml("again.yaml"), read_header(file)
    assert again == from_provenance(header)
    assert (again.model, again.card, again.task) == (header.spec, header.card, header.card.task)
    assert (again.data.folder, again.data.scenes) == ("", ())
    short = [word for key in ("encoder", "decoder") for word in (f"--model.network.{key}", "[1]")]
    dry = run("train", "again.yaml", "--dry-run", *short)
    assert (dry.status, dry.err) == (0, "")


# ---- what it says


@pytest.mark.slow
@every_recipe
def test_it_survives_yaml_and_builds(file: Path, tmp_path: Path) -> None:
    described = load_yaml(file)
    again = tmp_path / "again.yaml"
    again.write_text(described.to_yaml())
    assert load_yaml(again) == described
    with torch.device("meta"):
        made = described.model.build()
    assert made.sampling == described.model.sampling
    assert made.network.num_views == described.model.views
    assert made.network.num_conditions == described.model.conditions
    assert made.enlarge == described.model.enlarge


@every_recipe
def test_it_is_for_people_too(file: Path) -> None:
    described = load_yaml(file)
    assert file.read_text().startswith("# ")
    for text in (described.card.summary, described.card.data, described.card.terms):
        assert text.endswith(".")
        assert "\n" not in text


@pytest.mark.slow
@every_recipe
def test_a_dry_run_says_it_whole_and_what_it_costs(run: Run, file: Path) -> None:
    """With one block a stage, for speed."""
    network = load_yaml(file).model_dump()["model"]["network"]
    stages = str([1] * len(network["encoder"]))
    blocks = {"encoder": stages, "middle": "1", "decoder": stages}
    words = [word for key, value in blocks.items() for word in (f"--model.network.{key}", value)]
    said = run("train", file, "--dry-run", *words)
    assert (said.status, said.err) == (0, "")
    text, cost = said.out.rstrip().rsplit("\n", 1)
    assert parse(yaml.safe_load(text), "dry run") == load_yaml(
        file, [f"model.network.{key}={value}" for key, value in blocks.items()]
    )
    counted = re.fullmatch(
        r"([\d.]+) M parameters, ([\d.]+) GMAC a sample and pass(?: and ([\d.]+) in the codec)?, "
        r"about ([\d.]+) GiB a training step",
        cost,
    )
    assert counted, cost
    assert all(float(number) > 0 for number in counted.groups() if number)
    assert list(Path().iterdir()) == []


# ---- what it makes


def texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A random piece of a photograph."""
    whole = skimage.data.astronaut()
    top, left = (int(rng.integers(512 - side)) for side in (height, width))
    return np.ascontiguousarray(whole[top : top + height, left : left + width])


def make_data(folder: Path, described: Recipe, paired: bool) -> Path:
    """Pictures in the layout that the recipe wants: pairs, clean ones, or left and right views."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 3), ("val", 1)):
        for i in range(count):
            clean = texture(rng, 56, 80)
            if described.model.views > 1:
                pictures = {"left": clean[:, :-4], "right": clean[:, 4:]}
            elif paired:
                pictures = {"gt": clean, "lq": clean // 2}
            else:
                pictures = {"": clean}
            for side, picture in pictures.items():
                place = folder / part / side / f"{i}.png"
                place.parent.mkdir(parents=True, exist_ok=True)
                write(from_array(picture), place)
    return folder


def small(described: Recipe, folder: Path) -> Recipe:
    """The same recipe with one block a stage, few channels, small samples and ten steps."""
    values: dict[str, Any] = described.model_dump(mode="json")
    for network in filter(None, (values["model"]["network"], values["model"]["mean"])):
        network |= {"width": 8, "middle": 1}
        network |= {part: [1] * len(network[part]) for part in ("encoder", "decoder")}
    changes: dict[str, Any] = {"data.folder": str(folder), "data.patch": [32, 48]}
    if "width" in values["model"]["codec"]:
        values["model"]["codec"] |= {"width": 8}
    for loop in ("training", "codec_training", "mean_training"):
        short = {"steps": 10, "batch": 1, "validate_every": 5, "save_every": 5, "workers": 0, "warmup": 2}
        changes |= {f"{loop}.{key}": value for key, value in short.items()}
    changes |= {"codec_training.patch": [32, 32], "codec_training.gate": -99}
    return parse(values, "small", changes)


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Recipe], Path]:
    """Runs a recipe to the released model, with few samples behind the statistics of a codec."""
    from refusion.training import stages
    from refusion.training.run import train

    monkeypatch.setattr(stages, "CALIBRATION_SAMPLES", 8)
    return lambda described: train(described, tmp_path / "run", devices=1)


def restored(model: Path, described: Recipe) -> tuple[list[Image], list[Image]]:
    """Pictures before and after."""
    restore, rng = refusion.load(model, "cpu"), np.random.default_rng(1)
    lq = [from_array(texture(rng, 20, 28)) for _ in range(described.model.views)]
    wanted: dict[str, Any] = {"condition": CONDITION} if described.model.conditions else {}
    if described.model.fill:
        wanted["mask"] = np.eye(20, 28, dtype=np.float32)
    return lq, list(restore.run(restore.request(*lq, **wanted)).images)


@pytest.mark.slow
@every_recipe
def test_it_trains_and_its_model_restores(
    train: Callable[[Recipe], Path], file: Path, tmp_path: Path
) -> None:
    described = load_yaml(file)
    paired = described.data.folder not in ("clean", "stereo")
    described = small(described, make_data(tmp_path / "data", described, paired))
    model = train(described)
    assert read_header(model).card.metrics["val_psnr"] > 0
    factor = described.model.enlarge.factor
    for before, after in zip(*restored(model, described), strict=True):
        assert after.size == tuple(side * factor for side in before.size)
        assert np.isfinite(after.pixels).all()


# ---- the example of CONTRIBUTING.md


def example() -> str:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    found = re.search(r"^## A task$.*?^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


def test_a_new_task_is_fifteen_lines_at_most() -> None:
    assert 5 < len(example().splitlines()) <= 15
    parse(yaml.safe_load(example()), "example").model.build()


@pytest.mark.slow
def test_a_new_task_is_looked_at_trained_and_restored_as_it_says(run: Run) -> None:
    described = parse(yaml.safe_load(example()), "example")
    Path("faded-prints.yaml").write_text(example())
    make_data(Path(described.data.folder), described, paired=True)
    assert run("doctor", described.data.folder).status == 0
    short = [
        "--training.steps",
        10,
        "--training.batch",
        2,
        "--training.workers",
        0,
        "--data.patch",
        "[32, 32]",
    ]
    said = run("train", "faded-prints.yaml", "--model.network.width", 8, *short)
    assert said.status == 0, said.err
    model = Path("runs/faded-prints")
    photo = f"{described.data.folder}/val/lq/0.png"
    said = run("restore", photo, "--model", model)
    assert (said.status, said.out) == (0, "restored 1 of 1 to restored with runs/faded-prints\n")
    assert read("restored/0.png").size == read(photo).size
    header = read_header(model / "model.safetensors")
    assert header.card.task == header.recipe["task"] == "faded prints"
