"""A file gives back the restorer that was saved, and whatever else it holds is one line of error."""

import json
import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import refusion
from command import Run
from refusion.data.degradation import Haze
from refusion.errors import CheckpointError, RecipeError, RefusionError
from refusion.imaging.arrays import from_array
from refusion.models import checkpoint, hub
from refusion.models.checkpoint import bundled_models, read_header, save
from refusion.models.spec import Card, ModelSpec
from refusion.restoring.request import Options
from refusion.restoring.restorer import Restorer
from refusion.training.recipe import Recipe, degradation_of, from_provenance, parse
from tiny import SMALLEST

TINY: dict[str, Any] = {
    **SMALLEST,
    "model": {**SMALLEST["model"], "sampling": {"steps": 2}},
    "data": {"folder": "/home/somebody/secret", "scenes": ["/home/somebody/holiday"]},
}
CARD = Card(task="test", summary="A test.", terms="none", metrics={"psnr": 30.5})
PICTURE = np.random.default_rng(0).uniform(0.2, 0.8, (13, 18, 3)).astype(np.float32)


def make(described: Recipe) -> Restorer:
    """A restorer in which every weight counts; a fresh network is nearly the identity."""
    restorer = described.model.build()
    torch.manual_seed(1)
    for parameter in restorer.network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    restorer.network.requires_grad_(False).eval()
    return restorer


def write(
    path: Path,
    restorer: Restorer,
    described: Recipe,
    card: Card = CARD,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Save a model as training does."""
    save(path, restorer, described.model, card, described.provenance(), dtype)
    return path


RECIPE = parse(TINY, "test")


@pytest.fixture(scope="session")
def restorer() -> Restorer:
    return make(RECIPE)


@pytest.fixture(scope="session")
def model(restorer: Restorer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("model") / "tiny.safetensors", restorer, RECIPE)


@pytest.fixture
def forge(model: Path, tmp_path: Path) -> Callable[..., Path]:
    """The model with other tensors or another text about them."""

    def change(
        tensors: Callable[[dict[str, Tensor]], object] | None = None,
        meta: str | None = None,
        **content: object,
    ) -> Path:
        held = load_file(model)
        if tensors:
            tensors(held)
        spec = RECIPE.model.model_dump(mode="json")
        header = {"format": 2, "spec": spec, "card": {}, "recipe": {}, **content}
        text = json.dumps(header) if meta is None else meta
        save_file(held, tmp_path / "forged.safetensors", {"refusion": text})
        return tmp_path / "forged.safetensors"

    return change


def said(model: str | Path) -> str:
    """The one line with which a model is refused."""
    with pytest.raises(CheckpointError) as caught:
        refusion.load(model, "cpu")
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    assert Path(model).name in message
    return message


# ---- laws


def test_what_was_saved_restores_to_the_bit(restorer: Restorer, model: Path) -> None:
    loaded = refusion.load(model, "cpu")
    for options in ({}, {"steps": 5, "sampler": "sde-2", "seed": 3}):
        expected = restorer(PICTURE, **options).pixels
        np.testing.assert_array_equal(loaded(PICTURE, **options).pixels, expected)
    assert np.abs(expected - PICTURE).max() > 0.05  # the weights count
    assert loaded.sampling == restorer.sampling
    assert torch.equal(loaded.sde.alphas, restorer.sde.alphas)
    assert not any(p.requires_grad for p in loaded.network.parameters())
    assert not loaded.network.training


def test_half_precision_restores_closely(restorer: Restorer, model: Path, tmp_path: Path) -> None:
    write(tmp_path / "half.safetensors", restorer, RECIPE, dtype=torch.float16)
    assert (tmp_path / "half.safetensors").stat().st_size < 0.8 * model.stat().st_size
    loaded = refusion.load(tmp_path / "half.safetensors", "cpu")
    assert all(p.dtype == torch.float32 for p in loaded.network.parameters())
    np.testing.assert_allclose(loaded(PICTURE).pixels, restorer(PICTURE).pixels, rtol=0, atol=5e-3)


def test_saved_again_it_is_the_same_file(model: Path, tmp_path: Path) -> None:
    loaded = refusion.load(model, "cpu")
    save(tmp_path / "again.safetensors", loaded, loaded.spec, loaded.card, loaded.header.recipe)
    assert (tmp_path / "again.safetensors").read_bytes() == model.read_bytes()


def test_the_header_is_readable_alone(restorer: Restorer, model: Path) -> None:
    header = read_header(model)
    assert (header.spec, header.card, header.path) == (RECIPE.model, CARD, model)
    assert header.parameters == sum(p.numel() for p in restorer.network.parameters())
    assert header.recipe == json.loads(json.dumps(RECIPE.provenance()))
    loaded = refusion.load(header, "cpu")
    assert (loaded.header, loaded.spec, loaded.card) == (header, RECIPE.model, CARD)


def test_the_recipe_in_the_file_trains_again(model: Path) -> None:
    """It is the one by which the model was made, without the folders of the data."""
    nowhere = RECIPE.data.model_copy(update={"folder": "", "scenes": ()})
    assert from_provenance(read_header(model)) == RECIPE.model_copy(update={"data": nowhere, "card": CARD})


def test_no_folder_of_the_data_is_in_the_file(model: Path) -> None:
    assert b"somebody" not in model.read_bytes()


def test_the_long_skip_travels_with_the_weights(restorer: Restorer, tmp_path: Path) -> None:
    """Either variant takes the weights of the other; only the flag tells them apart."""
    other = parse(TINY, "test", {"model.network.long_skip": True})
    skipping = make(other)
    for a, b in zip(skipping.network.parameters(), restorer.network.parameters(), strict=True):
        assert torch.equal(a, b)
    write(tmp_path / "skip.safetensors", skipping, other)
    loaded = refusion.load(tmp_path / "skip.safetensors", "cpu")
    np.testing.assert_array_equal(loaded(PICTURE).pixels, skipping(PICTURE).pixels)
    assert np.abs(loaded(PICTURE).pixels - restorer(PICTURE).pixels).max() > 0.01


@pytest.mark.parametrize("codec", [{"name": "Pyramid", "longest_side": 8, "factor": 2}, {"name": "Pixels"}])
@pytest.mark.parametrize("prediction", ["noise", "velocity"])
def test_all_that_the_weights_mean_is_in_the_file(
    tmp_path: Path, codec: dict[str, object], prediction: str
) -> None:
    other = parse(
        TINY,
        "test",
        {
            "model.codec": codec,
            "model.prediction": prediction,
            "model.process": {"schedule": "linear", "steps": 10, "delta": 0.2, "noise_level": 0.3},
        },
    )
    made = make(other)
    write(tmp_path / "m.safetensors", made, other)
    loaded = refusion.load(tmp_path / "m.safetensors", "cpu")
    np.testing.assert_array_equal(loaded(PICTURE).pixels, made(PICTURE).pixels)


@pytest.fixture(scope="session")
def latent() -> tuple[Recipe, Restorer]:
    """A model whose codec has weights, and has measured its latents."""
    codec = {"name": "LatentUNet", "latent_channels": 4, "width": 4, "multipliers": [1, 1], "unshuffle": 2}
    described = parse(TINY, "test", {"model.codec": codec})
    made = make(described)
    made.codec.calibrate(torch.rand(4, 1, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    made.codec.requires_grad_(False).eval()
    return described, made


BUFFERS = ("latent_mean", "latent_std")


def test_a_latent_model_restores_to_the_bit(latent: tuple[Recipe, Restorer], tmp_path: Path) -> None:
    described, made = latent
    write(tmp_path / "latent.safetensors", made, described)
    loaded = refusion.load(tmp_path / "latent.safetensors", "cpu")
    np.testing.assert_array_equal(loaded(PICTURE).pixels, made(PICTURE).pixels)
    for name in BUFFERS:
        kept = getattr(loaded.codec, name)
        assert torch.equal(kept, getattr(made.codec, name))
        assert not torch.equal(kept, getattr(described.model.build().codec, name))
    assert not any(p.requires_grad for p in loaded.codec.parameters())
    assert not loaded.codec.training


def test_a_latent_model_in_half_precision_keeps_its_statistics(
    latent: tuple[Recipe, Restorer], tmp_path: Path
) -> None:
    described, made = latent
    write(tmp_path / "half.safetensors", made, described, dtype=torch.float16)
    loaded = refusion.load(tmp_path / "half.safetensors", "cpu")
    for name, value in loaded.codec.state_dict().items():
        expected = made.codec.state_dict()[name]
        assert value.dtype == torch.float32
        assert torch.equal(value, expected.half().float()), name
    picture = torch.from_numpy(PICTURE).permute(2, 0, 1)[None]
    there, here = (codec.encode(picture) for codec in (loaded.codec, made.codec))
    torch.testing.assert_close(there.mu, here.mu, rtol=0, atol=1e-2)
    torch.testing.assert_close(loaded.codec.decode(*there), made.codec.decode(*here), rtol=0, atol=1e-2)


@pytest.mark.parametrize("name", BUFFERS)
def test_statistics_that_are_missing_or_no_numbers(
    latent: tuple[Recipe, Restorer], tmp_path: Path, name: str
) -> None:
    described, made = latent
    path = write(tmp_path / "latent.safetensors", made, described)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    held = load_file(path)
    for value, expected in ((None, "no such tensor"), (float("nan"), "NaN or infinity")):
        given = {key: tensor.clone() for key, tensor in held.items()}
        if value is None:
            given.pop(f"codec.{name}")
        else:
            given[f"codec.{name}"].fill_(value)
        save_file(given, path, metadata)
        message = said(path)
        assert f"codec.{name}" in message
        assert expected in message


def test_nothing_in_a_model_is_unpickled(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a model was unpickled")

    for owner, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(owner, name, refuse)
    assert refusion.load(model, "cpu")(PICTURE).size == (18, 13)


# ---- the recipe, which is told and not run


def test_a_recipe_of_another_version_does_not_stop_loading(
    forge: Callable[..., Path], restorer: Restorer, run: Run
) -> None:
    made = json.loads(json.dumps(RECIPE.provenance()))
    renamed = {
        **made,
        "training": {**made["training"], "lerning_rat": 1},
        "optimisation": [1, {"steps": None}],
        "data": {**made["data"], "degradation": {"name": "Gone", "strength": "much"}},
    }
    path = forge(recipe=renamed)
    loaded = refusion.load(path, "cpu")
    np.testing.assert_array_equal(loaded(PICTURE).pixels, restorer(PICTURE).pixels)
    assert loaded.header.recipe == renamed
    for call in (from_provenance, degradation_of):
        with pytest.raises(RecipeError, match=r"forged\.safetensors: .*\.name is 'Gone': .*'Haze'"):
            call(loaded.header)
    with pytest.raises(RecipeError) as caught:
        from_provenance(loaded.header)
    for part in ("training.lerning_rat", "optimisation", "data.degradation.name"):
        assert part in str(caught.value)
    told = run("info", path)
    assert (told.status, told.err) == (0, "")
    refused = run("info", path, "--recipe")
    assert (refused.status, refused.out, refused.err.count("\n")) == (1, "", 1)
    assert "training.lerning_rat" in refused.err


@pytest.mark.parametrize("recipe", [{}, {"nonsense": [5]}, {"task": 5, "model": "gone", "data": {}}])
def test_a_recipe_of_nonsense_does_not_stop_loading(
    forge: Callable[..., Path], restorer: Restorer, recipe: dict[str, object]
) -> None:
    loaded = refusion.load(forge(recipe=recipe), "cpu")
    np.testing.assert_array_equal(loaded(PICTURE).pixels, restorer(PICTURE).pixels)
    assert loaded.header.recipe == recipe
    assert degradation_of(loaded.header) is None
    assert yaml.safe_load(hub.model_card(loaded.header).split("```yaml\n")[1].split("```")[0]) == recipe
    with pytest.raises(RecipeError, match=r"forged\.safetensors: "):
        from_provenance(loaded.header)


@pytest.mark.parametrize("data", [5, ["a"], {"degradation": 5}])
def test_data_of_another_kind_are_a_recipe_error(forge: Callable[..., Path], data: object) -> None:
    header = read_header(forge(recipe={"data": data}))
    with pytest.raises(RecipeError, match=r"forged\.safetensors: .*data"):
        from_provenance(header)
    with pytest.raises(RecipeError, match=r"forged\.safetensors: .*d(ata|egradation)"):
        degradation_of(header)


# ---- format 1, which is read for ever


def golden_picture() -> np.ndarray:
    """The picture that golden/format-1.npy was restored from."""
    y, x = np.mgrid[:13, :18].astype(np.float32)
    return np.stack([x / 20, y / 16, (x * y % 11) / 11], axis=-1).astype(np.float32)


def test_format_1_is_understood(golden_folder: Path) -> None:
    path = golden_folder / "format-1.safetensors"
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["refusion"])["format"] == 1
    header = read_header(path)
    assert header.card == Card(
        task="golden test", summary="Random weights.", terms="none", metrics={"psnr": 30.5}
    )
    network = {"name": "ConditionalNAFNet", "width": 4, "encoder": [1], "middle": 1, "decoder": [1]}
    assert header.spec == ModelSpec.model_validate(
        {
            "network": {**network, "long_skip": True},
            "codec": {"name": "Pyramid", "longest_side": 12, "factor": 2, "dark": 0.1},
            "process": {"noise_level": "50/255", "steps": 20, "schedule": "linear", "delta": 0.01},
            "prediction": "velocity",
            "sampling": {"steps": 4, "eta": 0.5, "seed": 7},
        }
    )
    recipe = from_provenance(header)
    assert (recipe.model, recipe.card, recipe.task) == (header.spec, header.card, header.card.task)
    assert recipe.data.degradation == degradation_of(header) == Haze()


def test_format_1_restores_what_it_did(golden_folder: Path) -> None:
    """To the bit on the machine where the numbers were made; convolutions of others sum in another order."""
    restored = refusion.load(golden_folder / "format-1.safetensors", "cpu")(golden_picture()).pixels
    expected = np.load(golden_folder / "format-1.npy")
    np.testing.assert_allclose(restored, expected, rtol=0, atol=5e-6)
    assert np.abs(expected - golden_picture()).mean() > 0.1


def test_format_1_saved_again_is_format_2_and_the_same_model(golden_folder: Path, tmp_path: Path) -> None:
    old = refusion.load(golden_folder / "format-1.safetensors", "cpu")
    save(tmp_path / "new.safetensors", old, old.spec, old.card, old.header.recipe)
    with safe_open(tmp_path / "new.safetensors", "pt") as file:
        assert json.loads(file.metadata()["refusion"])["format"] == 2
    new = refusion.load(tmp_path / "new.safetensors", "cpu")
    assert replace(new.header, path=old.header.path) == old.header
    np.testing.assert_array_equal(new(golden_picture()).pixels, old(golden_picture()).pixels)


@pytest.mark.parametrize("key", ["enlarge", "sampling"])
def test_format_1_may_leave_out_what_has_a_default(forge: Callable[..., Path], key: str) -> None:
    spec = RECIPE.model.model_dump(mode="json")
    del spec[key]
    read = read_header(forge(format=1, recipe={"task": "test", **spec})).spec
    assert getattr(read, key) == ModelSpec.model_fields[key].default


# ---- a header is read once


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The headers that were read, each time one more."""
    headers: list[str] = []

    def loads(text: str) -> Any:
        headers.append(text)
        return json.loads(text)

    monkeypatch.setattr(checkpoint, "json", SimpleNamespace(loads=loads, dumps=json.dumps))
    return headers


def test_a_header_is_not_parsed_again_for_the_weights(model: Path, parsed: list[str]) -> None:
    refusion.load(model, "cpu")
    assert len(parsed) == 1
    header = read_header(model)
    refusion.load(header, "cpu")
    assert len(parsed) == 2


def test_restoring_pictures_parses_the_header_once(model: Path, parsed: list[str], run: Run) -> None:
    for name in ("a.png", "b.png"):
        refusion.write(from_array(PICTURE), name)
    restored = run("restore", "a.png", "b.png", "--model", model, "--device", "cpu")
    assert (restored.status, restored.err) == (0, "")
    assert len(list(Path("restored").iterdir())) == 2
    assert len(parsed) == 1


# ---- finding and saving


def test_a_runs_folder_stands_for_its_model(model: Path, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(model.read_bytes())
    assert refusion.load(tmp_path, "cpu")(PICTURE).size == (18, 13)
    assert refusion.load(str(tmp_path), torch.device("cpu")).device == torch.device("cpu")


def test_a_bundled_name_stands_for_its_file(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "BUNDLED", model.parent)
    monkeypatch.chdir(tmp_path)
    assert checkpoint.resolve("tiny") == model
    (tmp_path / "tiny").mkdir()  # say, of restored pictures
    assert checkpoint.resolve("tiny") == model
    assert "bundled are tiny" in said("tinny")


def test_the_best_device_is_taken(model: Path) -> None:
    assert refusion.load(model).device.type == checkpoint.best_device().type


def test_a_failed_save_leaves_the_old_model(
    restorer: Restorer, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "m.safetensors"
    target.write_bytes(model.read_bytes())

    def full(path: Path, data: bytes) -> None:
        with path.open("wb") as file:
            file.write(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="No space"):
            write(target, restorer, RECIPE)
    assert target.read_bytes() == model.read_bytes()
    assert list(tmp_path.iterdir()) == [target]
    write(target, restorer, RECIPE, Card(summary="new"))
    assert read_header(target).card.summary == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_saving_makes_the_folder(restorer: Restorer, tmp_path: Path) -> None:
    write(tmp_path / "a" / "b" / "m.safetensors", restorer, RECIPE)
    assert (tmp_path / "a" / "b" / "m.safetensors").is_file()


def test_others_may_read_a_model_as_any_new_file(model: Path, tmp_path: Path) -> None:
    (tmp_path / "new").touch()
    assert model.stat().st_mode == (tmp_path / "new").stat().st_mode


# ---- errors: files


def test_nothing_of_that_name(tmp_path: Path) -> None:
    assert "bundled" in said(tmp_path / "none.safetensors")
    assert "bundled" in said("no-such-model")
    assert "neither" in said(tmp_path)  # a folder without a model


@pytest.mark.parametrize("part", [0.0, 0.0001, 0.0005, 0.01, 0.3, 0.9, 0.9999])
def test_a_truncated_file(model: Path, tmp_path: Path, part: float) -> None:
    data = model.read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[: int(part * len(data))])
    assert "not a whole safetensors file" in said(tmp_path / "cut.safetensors")


def test_a_file_of_anything_else(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    contents = [np.random.default_rng(0).bytes(5000), b"\0" * 100, b"{}", pickle.dumps({"a": 1}), b"\x89PNG"]
    for content in contents:
        path.write_bytes(content)
        assert "not a whole safetensors file" in said(path)
    torch.save({"params": torch.ones(3)}, path)
    assert "not a whole safetensors file" in said(path)


def test_a_safetensors_file_of_others(model: Path, tmp_path: Path) -> None:
    for metadata in (None, {"format": "pt"}):
        save_file(load_file(model), tmp_path / "other.safetensors", metadata)
        assert "without refusion's spec and card" in said(tmp_path / "other.safetensors")


# ---- errors: what a file says of itself

NESTED = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    "meta",
    [
        "[]",
        "5",
        "null",
        '"text"',
        "{",
        "",
        NESTED,
        '{"format": 1}',
        '{"format": 2}',
        '{"recipe": ' + NESTED + "}",
    ],
    ids=["list", "number", "null", "text", "cut", "empty", "nested", "bare 1", "bare 2", "nested inside"],
)
def test_a_text_that_is_no_header(forge: Callable[..., Path], meta: str) -> None:
    assert "without refusion's spec and card" in said(forge(meta=meta))


@pytest.mark.parametrize("spec", [None, [], "text", 5, [["process", "x"]]])
def test_a_spec_that_is_no_mapping(forge: Callable[..., Path], spec: object) -> None:
    assert re.search("spec", said(forge(spec=spec)).split(": ", 1)[1], re.IGNORECASE)


@pytest.mark.parametrize("recipe", [None, [], "text", 5, [["task", "x"]]])
def test_a_recipe_of_format_1_that_is_no_mapping(forge: Callable[..., Path], recipe: object) -> None:
    """It holds the spec."""
    said(forge(format=1, recipe=recipe))


@pytest.mark.parametrize("recipe", [None, "text", 5])
def test_a_recipe_of_format_2_that_is_no_mapping(forge: Callable[..., Path], recipe: object) -> None:
    assert "without refusion's spec and card" in said(forge(recipe=recipe))


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        (5, "[Cc]ard"),
        ([], "[Cc]ard"),
        ({"author": "x"}, "unknown key author"),
        ({"metrics": {"psnr": "high"}}, "metrics.psnr is 'high'"),
    ],
)
def test_a_card_of_another_kind(forge: Callable[..., Path], card: object, expected: str) -> None:
    assert re.search(expected, said(forge(card=card)).split(": ", 1)[1])


@pytest.mark.parametrize("version", [0, 3, "1", "2", None])
def test_another_format(forge: Callable[..., Path], version: object) -> None:
    assert f"format {version}" in said(forge(format=version))


def changed(name: str, value: object) -> dict[str, object]:
    *parents, last = name.split(".")
    whole = RECIPE.model.model_dump(mode="json")
    level = whole
    for parent in parents:
        level = level[parent]
    level[last] = value
    return whole


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("network.depth", 3, "unknown key network.depth"),
        ("network.name", "UNet", "ConditionalNAFNet"),
        ("process.noise_level", 50, "50/255"),
        ("process", {}, "process.noise_level is missing"),
        ("network.width", 10**9, "1000000000"),
        ("network.width", 65536, "its spec means (524288, 65536)"),
        ("codec.factor", 60000, "its spec means (4, 21600000000, 3, 3)"),
        ("sampling.steps", 1000, "sampling.steps"),
    ],
)
@pytest.mark.parametrize("version", [1, 2])
def test_a_spec_that_cannot_be(
    forge: Callable[..., Path], name: str, value: object, expected: str, version: int
) -> None:
    spec = changed(name, value)
    content = {"spec": spec} if version == 2 else {"recipe": {"task": "test", **spec}}
    assert expected in said(forge(format=version, **content))


def test_a_spec_without_end(forge: Callable[..., Path]) -> None:
    """Refused before it takes the machine's memory or time."""
    deep = changed("network.encoder", [1] * 60)
    deep["network"]["decoder"] = [1] * 60  # type: ignore[index]
    said(forge(spec=deep))


def test_times_without_end(forge: Callable[..., Path]) -> None:
    assert "process.steps" in said(forge(spec=changed("process.steps", 10**6)))


# ---- errors: weights

INTRO = "network.intro.weight"


def test_a_missing_tensor(forge: Callable[..., Path]) -> None:
    assert f"{INTRO} is no such tensor" in said(forge(lambda held: held.pop(INTRO)))


def test_a_tensor_too_many(forge: Callable[..., Path]) -> None:
    assert "extra is (3,), and" in said(forge(lambda held: held.update(extra=torch.ones(3))))


def test_a_tensor_of_another_shape(forge: Callable[..., Path]) -> None:
    message = said(forge(lambda held: held.update({INTRO: torch.ones(4, 6, 3, 3)})))
    assert f"{INTRO} is (4, 6, 3, 3), and its spec means (4, 24, 3, 3)" in message


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers(forge: Callable[..., Path], broken: float) -> None:
    message = said(forge(lambda held: held[INTRO].view(-1)[5].fill_(broken)))
    assert INTRO in message
    assert "NaN or infinity" in message


# ---- errors: devices


@pytest.mark.parametrize("device", ["nonsense", "cuda:99", "cpu:x", "xla"])
def test_a_device_that_is_not_there(model: Path, device: str) -> None:
    with pytest.raises((RefusionError, ValueError)) as caught:
        refusion.load(model, device)
    assert device in str(caught.value)
    assert "\n" not in str(caught.value)


# ---- the bundled models


def test_shadow_removal_is_bundled() -> None:
    assert "shadow-removal" in [path.stem for path in bundled_models()]


@pytest.mark.slow
@pytest.mark.parametrize("path", list(bundled_models()), ids=lambda path: path.stem)
def test_a_bundled_model_restores_and_says_what_it_is(path: Path) -> None:
    header = read_header(path)
    for name in ("summary", "data", "terms", "training", "metrics", "limits"):
        assert getattr(header.card, name), name
    loaded = refusion.load(path.stem, "cpu")
    pictures = [PICTURE] * header.spec.views
    options: Options = {"condition": (-14.0, 160.0, 42.0)} if header.spec.conditions else {}
    if header.spec.fill:
        options["mask"] = np.eye(13, 18, dtype=np.float32)
    request = loaded.request(*pictures, **options)
    restored, again = (loaded.run(request).image for _ in range(2))
    assert restored.size == tuple(side * header.spec.enlarge.factor for side in (18, 13))
    np.testing.assert_array_equal(restored.pixels, again.pixels)
    assert loaded.sampling == header.spec.sampling
    assert (loaded.name, loaded.spec, loaded.card) == (path.stem, header.spec, header.card)
    assert path.stat().st_size < 100e6
