"""A recipe says everything once: it survives YAML, and what it does not know is one line of error."""

import copy
import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from refusion.data.degradation import Haze
from refusion.errors import RecipeError
from refusion.models import settings
from refusion.training.cost import cost
from refusion.training.recipe import Recipe, load_yaml, parse, resolve
from tiny import SMALLEST

TINY = SMALLEST
LATENT: dict[str, Any] = {
    "name": "LatentUNet",
    "latent_channels": 5,
    "width": 12,
    "multipliers": [1, 2, 3],
    "unshuffle": 2,
    "skips": 1,
    "attention": True,
}
HAZE = {"name": "Haze", "thin": 0.1, "thick": 3.5, "uneven": 0.5, "dim": 0.6, "tint": 0.01}


def said(*overrides: tuple[str, object], values: dict[str, Any] = TINY) -> str:
    """The one line with which a recipe is refused."""
    with pytest.raises(RecipeError) as caught:
        parse(values, "my.yaml", dict(overrides))
    message = str(caught.value)
    assert message.startswith("my.yaml: ")
    assert "\n" not in message
    assert len(message) < 500
    return message


# ---- laws


@pytest.mark.parametrize("written", ["32", '"32"', "bf16", "auto"])
def test_precision_is_read_as_it_is_written(written: str, tmp_path: Path) -> None:
    """32 is a number in YAML."""
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(TINY))
    assert load_yaml(file, [f"training.precision={written}"]).training.precision == written.strip('"')


def test_another_precision_is_refused() -> None:
    assert "training.precision" in said(("training.precision", 16))


def test_yaml_gives_the_same_recipe_again(tmp_path: Path) -> None:
    described = parse(
        TINY,
        "test",
        {
            "model.network.long_skip": True,
            "model.codec": {"name": "Pyramid", "longest_side": 64, "dark": 0.1},
            "data.augment.flip": 0.25,
            "data.scenes": ["a", "b"],
            "training.learning_rate": 1e-5,
            "training.betas": [0.8, 0.999],
            "model.sampling": {"sampler": "posterior", "eta": 0.5, "steps": 3, "seed": 7},
        },
    )
    file = tmp_path / "again.yaml"
    file.write_text(described.to_yaml())
    again = load_yaml(file)
    assert again == described
    assert again.to_yaml() == described.to_yaml()
    assert Recipe.model_validate(described.model_dump(mode="json")) == described


@pytest.mark.parametrize("skips", [None, 0, 3])
def test_yaml_gives_a_latent_recipe_again(tmp_path: Path, skips: int | None) -> None:
    codec_training = {
        "steps": 7,
        "patch": [96, 64],
        "swap": 0.25,
        "replacing": 2.0,
        "regular": 0.01,
        "skip_dropout": 0.125,
        "gate": -1.5,
        "optimizer": "lion",
        "milestones": [0.5],
    }
    augment = {"veil": True, "synthetic": 0.5, "borrow": 0.25}
    described = parse(
        TINY,
        "test",
        {
            "model.codec": {**LATENT, "skips": skips},
            "data": {"degradation": HAZE, "augment": augment},
            "codec_training": codec_training,
        },
    )
    file = tmp_path / "again.yaml"
    file.write_text(described.to_yaml())
    assert load_yaml(file) == described
    written = yaml.safe_load(file.read_text())
    assert written["model"]["codec"] == {**LATENT, "skips": skips}
    assert written["data"]["degradation"].items() >= HAZE.items()
    assert written["codec_training"].items() >= codec_training.items()
    assert written["data"]["augment"].items() >= augment.items()


def test_the_defaults_of_a_latent_recipe_are_those_of_the_class() -> None:
    described = parse(TINY, "test", {"model.codec": {"name": "LatentUNet"}})
    again = parse(yaml.safe_load(described.to_yaml()), "again")
    assert again == described
    made = again.model.build().codec
    assert (made.channels, made.skips, made.factor) == (8, 2, 8)


def test_parsing_leaves_its_values_alone() -> None:
    given = {**TINY, "data": {"augment": {"flip": 0.5}}}
    values = yaml.safe_load(yaml.safe_dump(given))
    parse(values, "test", {"model.network.width": 8, "data.augment.flip": 0.1, "training.steps": 3})
    assert values == given


def test_a_recipe_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parse(TINY, "test").training.steps = 1  # type: ignore[misc]


@pytest.mark.slow
def test_a_recipe_is_built_and_counted_at_its_full_size(subtests: pytest.Subtests) -> None:
    """One of each kind; `test_recipes` has all of them, made small."""
    for name in ("shadow-removal", "dehazing", "stereo-super-resolution", "bokeh"):
        file = resolve(name)
        with subtests.test(file.name):
            described = load_yaml(file)
            with torch.device("meta"):
                restorer = described.model.build()
            assert restorer.sde.steps >= described.model.sampling.steps
            counted = cost(described)
            modules = (restorer.network, restorer.codec)
            assert counted.parameters == sum(p.numel() for m in modules for p in m.parameters())
            assert counted.macs > 0
            assert parse(yaml.safe_load(described.to_yaml()), "again") == described


def test_a_recipe_builds_what_it_says() -> None:
    process = {"model.process.schedule": "linear", "model.process.steps": 7}
    made = parse(TINY, "test", {**process, "model.sampling.steps": 2}).model.build()
    assert (made.sde.steps, made.sampling.steps, made.codec.channels) == (7, 2, 12)
    assert made.sde.noise_level == pytest.approx(50 / 255)
    assert made.sde.alphas[-1].item() == pytest.approx(0.005)
    assert made.network.intro.weight.shape == (4, 24, 3, 3)


def test_a_latent_recipe_builds_what_it_says() -> None:
    made = parse(TINY, "test", {"model.codec": LATENT}).model.build()
    assert (made.codec.channels, made.codec.factor, made.codec.skips) == (5, 8, 1)
    assert made.network.intro.weight.shape == (4, 10, 3, 3)
    assert made.codec.init_conv.weight.shape == (12, 12, 3, 3)
    assert any("to_qkv" in name for name in made.codec.state_dict())
    plain = parse(TINY, "test", {"model.codec": {**LATENT, "attention": False}}).model.build()
    assert not any("to_qkv" in name for name in plain.codec.state_dict())


def test_haze_is_what_the_recipe_says() -> None:
    described = parse(TINY, "test", {"data.degradation": HAZE})
    assert described.data.degradation == Haze(thin=0.1, thick=3.5, uneven=0.5, dim=0.6, tint=0.01)
    assert parse(TINY, "test", {"data.degradation": {"name": "Haze"}}).data.degradation == Haze()
    assert parse(TINY, "test", {"data.degradation": None}).data.degradation is None
    assert parse(TINY, "test").data.degradation is None


# ---- provenance


def test_provenance_tells_all_but_the_card_and_the_folders() -> None:
    card = {"summary": "Of somebody.", "terms": "secret", "metrics": {"psnr": 30.5}}
    data = {"folder": "/home/somebody", "scenes": ["/home/somebody/holiday"], "patch": [8, 4]}
    described = parse({**TINY, "card": card, "data": data}, "test", {"data.degradation": HAZE})
    told = described.provenance()
    assert "somebody" not in json.dumps(told)
    assert "secret" not in json.dumps(told)
    whole = json.loads(json.dumps(described.model_dump(mode="json")))
    del whole["card"]
    whole["data"] |= {"folder": "", "scenes": []}
    assert json.loads(json.dumps(told)) == whole
    again = parse(told, "again")
    assert (again.model, again.training, again.data.patch) == (described.model, described.training, (8, 4))


# ---- values


@pytest.mark.parametrize("written", ["50/255", 50 / 255, "0.19607843137254902"])
def test_the_noise_level_may_be_a_fraction(written: object) -> None:
    assert parse(TINY, "test", {"model.process.noise_level": written}).model.process.noise_level == 50 / 255


def test_a_noise_level_in_grey_levels_is_an_error_that_says_so() -> None:
    assert "50/255" in said(("model.process.noise_level", 50))


@pytest.mark.parametrize("written", ["a/b", "50/0", "50/", "/255"])
def test_no_fraction_is_an_error(written: str) -> None:
    message = said(("model.process.noise_level", written))
    assert "model.process.noise_level" in message
    assert written in message


def test_exponents_without_a_dot_are_numbers(tmp_path: Path) -> None:
    """YAML 1.1 takes 1e-3 for a word."""
    file = tmp_path / "r.yaml"
    text = yaml.safe_dump({**TINY, "training": {"learning_rate": "RATE", "betas": ["RATE", 0.5]}})
    file.write_text(text.replace("RATE", "1e-3"))
    assert yaml.safe_load(file.read_text())["training"]["learning_rate"] == "1e-3"
    assert load_yaml(file).training.learning_rate == 1e-3
    assert load_yaml(file).training.betas == (1e-3, 0.5)
    assert load_yaml(file, ["training.ema=2e-1"]).training.ema == 0.2


def test_overrides_go_by_dotted_name(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(yaml.safe_dump(TINY))
    changed = load_yaml(
        file, ["model.network.width=8", "data.patch=[8, 4]", "data.augment.turn=true", "data.folder=a=b"]
    )
    assert (changed.model.network.width, changed.data.patch, changed.data.folder) == (8, (8, 4), "a=b")  # type: ignore[attr-defined]
    assert changed.data.augment.turn
    assert changed.model.network.encoder == (1,)  # type: ignore[attr-defined]


# ---- errors


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("tsk", "task"),
        ("modl", "model"),
        ("network", "model.network"),
        ("codec", "model.codec"),
        ("process", "model.process"),
        ("prediction", "model.prediction"),
        ("enlarge", "model.enlarge"),
        ("sampling", "model.sampling"),
        ("noise_level", "model.process.noise_level"),
        ("training.folder", "data.folder"),
        ("model.network.widht", "width"),
        ("model.codec.factr", "factor"),
        ("model.process.noise_lvel", "noise_level"),
        ("data.ptch", "patch"),
        ("data.augment.flp", "flip"),
        ("model.sampling.stps", "steps"),
        ("training.lerning_rate", "learning_rate"),
        ("codec_training.lerning_rate", "learning_rate"),
        ("codec_training.skip_droput", "skip_dropout"),
        ("codec_trainig", "codec_training"),
        ("data.augment.synthetc", "synthetic"),
    ],
)
def test_an_unknown_key_is_named_with_what_is_near(wrong: str, right: str) -> None:
    """With its path, where it stands here or at one place only."""
    message = said((wrong, 1))
    assert f"unknown key {wrong}, " in message
    here = ".".join([*wrong.split(".")[:-1], right])
    assert f"did you mean {right}?" in message or f"did you mean {here}?" in message


def test_an_unknown_key_of_the_degradation_is_named() -> None:
    message = said(("data.degradation", {**HAZE, "thik": 1}))
    assert "unknown key data.degradation.thik, did you mean thick?" in message


@pytest.mark.parametrize("written", ["skips: null", "skips: 1.5", "multipliers: 2", "attention: often"])
def test_settings_of_a_latent_codec_have_their_types(written: str) -> None:
    codec = {**LATENT, **yaml.safe_load(written)}
    if written == "skips: null":
        assert parse(TINY, "test", {"model.codec": codec}).model.codec.skips is None  # type: ignore[attr-defined]
    else:
        assert f"model.codec.{written.split(':')[0]} is " in said(("model.codec", codec))


def test_every_error_is_named_at_once() -> None:
    message = said(("model.network.widht", 4), ("training.steps", 0), ("model.prediction", "x0"))
    for part in ("model.network.widht", "training.steps", "model.prediction", "reverse-step"):
        assert part in message


@pytest.mark.parametrize(
    "key", ["task", "model", "model.network", "model.codec", "model.process", "model.prediction"]
)
def test_a_missing_key_is_named(key: str) -> None:
    *parents, last = key.split(".")
    values = copy.deepcopy(TINY)
    level = values
    for parent in parents:
        level = level[parent]
    level.pop(last)
    assert f"my.yaml: {key} is missing" in said(values=values)
    assert "model.process.noise_level is missing" in said(("model.process", {}))


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("model.network.name", "NAFNet", "ConditionalNAFNet"),
        ("model.codec.name", "Pixel", "'Pixels', 'Pyramid' or 'LatentUNet'"),
        ("data.degradation.name", "Fog", "'Haze'"),
        ("codec_training.optimizer", "sgd", "'adam', 'adamw' or 'lion'"),
        ("model.prediction", "eps", "'noise', 'clean', 'velocity' or 'reverse-step'"),
        ("model.process.schedule", "cos", "'constant', 'linear' or 'cosine'"),
        ("training.optimizer", "sgd", "'adam', 'adamw' or 'lion'"),
        ("training.compare", "noise", "'output'"),
        ("model.sampling.sampler", "ode2", "ode-2"),
    ],
)
def test_a_wrong_name_lists_the_choices(key: str, value: str, expected: str) -> None:
    message = said((key, value))
    assert value in message
    assert expected in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("training.steps", 0),
        ("training.steps", "many"),
        ("training.batch", 1.5),
        ("training.clip", -1),
        ("training.ema", 1),
        ("training.p_terminal", 1.1),
        ("training.learning_rate", None),
        ("data.patch", [16]),
        ("data.patch", [16, 0]),
        ("data.augment.flip", "often"),
        ("model.network.encoder", "1"),
        ("model.network", 5),
        ("model.process.steps", -3),
        ("model.sampling.steps", 0),
        ("model.sampling.eta", 2),
        ("codec_training.steps", 0),
        ("codec_training.patch", [16, 0]),
        ("codec_training.swap", 1.1),
        ("codec_training.skip_dropout", -0.1),
        ("codec_training.replacing", -1),
        ("codec_training.regular", -1),
        ("codec_training.gate", "high"),
        ("codec_training.compare", "output"),
        ("training.swap", 0.5),
        ("data.degradation.thin", "a bit"),
        ("data.degradation.thick", 0.1),
        ("data.degradation.dim", 0),
        ("data.degradation", "Haze"),
        ("data.augment.synthetic", 2),
        ("data.augment.veil", "maybe"),
    ],
)
def test_a_wrong_value_is_named_with_its_key(key: str, value: object) -> None:
    message = said((key, value))
    assert key.rsplit(".", 1)[0] in message


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("model.network.encoder", [1, 1], "encoder has 2 levels and decoder 1"),
        ("model.network.width", 5, "width is 5"),
        ("model.codec.factor", 0, "factor is 0"),
        ("model.process.delta", 2, "delta 2"),
        ("model.process.delta", float("nan"), "delta nan"),
        ("model.codec", {**LATENT, "skips": 4}, "skips is 4: give 0 to 3"),
        ("model.codec", {**LATENT, "skips": -1}, "skips is -1"),
        ("model.codec", {**LATENT, "multipliers": []}, "multipliers ()"),
        ("model.codec", {**LATENT, "multipliers": [1, 0]}, "multipliers (1, 0)"),
        ("model.codec", {**LATENT, "latent_channels": 0}, "latent_channels 0"),
        ("model.codec", {**LATENT, "width": 0}, "width 0"),
        ("model.codec", {**LATENT, "unshuffle": 0}, "unshuffle 0"),
        ("model.codec", {**LATENT, "multipliers": [10**9]}, "1000000000 is above"),
        ("model.codec", {**LATENT, "width": 10**9}, "1000000000 is above"),
        ("model.codec", {**LATENT, "multipliers": [1025]}, "multipliers sums to more than 1024"),
    ],
)
def test_what_a_part_refuses_is_an_error_of_the_recipe(key: str, value: object, expected: str) -> None:
    assert expected in said((key, value))


def test_more_sampling_steps_than_training_times_are_an_error() -> None:
    message = said(("model.sampling.steps", 101))
    assert "101" in message
    assert "100" in message


@pytest.mark.parametrize("key", ["model.network.width", "model.network.middle", "model.codec.factor"])
def test_huge_sizes_are_refused_before_they_are_built(key: str) -> None:
    assert "1000000000 is above" in said((key, 10**9))
    assert "1000000000 is above" in said(("model.network.encoder", [10**9]), ("model.network.decoder", [1]))


def test_a_table_of_times_without_end_is_refused() -> None:
    assert "model.process.steps" in said(("model.process.steps", 10**6))


def test_levels_without_end_are_refused() -> None:
    said(("model.network.encoder", [1] * 60), ("model.network.decoder", [1] * 60))


def test_a_value_of_any_length_is_shortened() -> None:
    said(("model.codec", {"name": "x" * 10_000}))
    said(("model.prediction", "x" * 10_000))


# ---- files


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a: [1", "not YAML"),
        (b"\xff\xfe\x00", "not YAML"),
        (b"a: b: c", "not YAML"),
        (b"[" * 500 + b"]" * 500, "nested too deeply"),
        (b"a: " + b"{b: " * 500 + b"1" + b"}" * 500, "nested too deeply"),
        (b"- " * 500 + b"x", "nested too deeply"),
        (b"- task\n- network\n", "a mapping"),
        (b"", "a mapping"),
        (b"shadow removal", "a mapping"),
        (b"!!python/object/apply:os.system [echo]", "not YAML"),
    ],
)
def test_a_file_that_is_no_recipe_is_one_line(tmp_path: Path, content: bytes, expected: str) -> None:
    file = tmp_path / "r.yaml"
    file.write_bytes(content)
    with pytest.raises(RecipeError) as caught:
        load_yaml(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    for place in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(RecipeError, match="give a recipe file"):
            load_yaml(place)


def test_an_override_that_is_no_yaml_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(yaml.safe_dump(TINY))
    with pytest.raises(RecipeError) as caught:
        load_yaml(file, ["model.network.encoder=[1"])
    assert "model.network.encoder" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("how", ["clean", "borrow", "strength"])
def test_a_sample_is_not_moved_away_from_what_its_condition_says(how: str) -> None:
    told = {"model.network.conditions": 3}
    parse(TINY, "r.yaml", told)
    with pytest.raises(RecipeError, match=rf"data\.augment .*{how}.* do not go with network\.conditions"):
        parse(TINY, "r.yaml", {**told, f"data.augment.{how}": 0.1})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"model.process": {"kind": "denoising", "noise_level": 0.2}}, "give network.conditional false"),
        ({"model.network.conditional": False}, "give network.conditional true"),
        ({"model.enlarge.factor": 2, "data.degradation": {"name": "Rain"}}, "reduces 1 times"),
        ({"model.enlarge.factor": 2, "data.degradation": {"name": "Downscale"}}, "reduces 4 times"),
    ],
)
def test_parts_that_contradict_each_other_are_one_line(values: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said) as caught:
        parse(TINY, "r.yaml", values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("values", [{"model.codec": {"name": "Pyramid"}}, {"model.enlarge": {"factor": 2}}])
def test_noise_must_reach_the_denoising_process_as_it_is(values: dict[str, Any]) -> None:
    denoising = {
        "model.process": {"kind": "denoising", "noise_level": 0.2},
        "model.network.conditional": False,
    }
    parse(TINY, "r.yaml", denoising).model.build()
    with pytest.raises(RecipeError, match=r"give codec\.name Pixels and enlarge\.factor 1"):
        parse(TINY, "r.yaml", {**denoising, **values})


def test_an_override_that_is_nested_too_deeply_is_one_line() -> None:
    with pytest.raises(RecipeError, match=r"^data is .*nested too deeply") as said:
        load_yaml(resolve("dehazing"), ["data=" + "[" * 500])
    assert len(str(said.value)) < 200


@pytest.mark.parametrize(
    "forged",
    [
        {"middle": 65536},
        pytest.param({"encoder": [0] * 60000, "decoder": [0] * 60000}, marks=pytest.mark.slow),
    ],
)
def test_a_forged_count_of_blocks_is_one_line_in_bounded_time(
    forged: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After as many modules as are allowed; the rest is not built."""
    monkeypatch.setattr(settings, "MAX_MODULES", 500)
    network = {**SMALLEST["model"]["network"], **forged}
    start = time.process_time()
    with pytest.raises(RecipeError, match="more than 500 layers"):
        parse({**SMALLEST, "model": {**SMALLEST["model"], "network": network}}, "test")
    assert time.process_time() - start < 20
    assert not torch.nn.modules.module._global_module_registration_hooks
