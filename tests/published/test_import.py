"""Published weights become a model that every command takes, and go back to what they were."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import refusion
from command import Run
from refusion import published
from refusion.diffusion.sde import MeanRevertingSDE
from refusion.errors import CheckpointError
from refusion.imaging.arrays import from_array
from refusion.imaging.formats import read, write
from refusion.models import checkpoint
from refusion.published.export import exported, write_published
from refusion.published.import_ import imported
from refusion.restoring.walk import noise_source
from refusion.training.recipe import parse
from tiny import SMALLEST

State = dict[str, Tensor]
NAF: dict[str, Any] = {"width": 4, "enc_blk_nums": [1], "middle_blk_num": 1, "dec_blk_nums": [1]}
UNET: dict[str, Any] = {"in_nc": 3, "out_nc": 3, "nf": 4, "depth": 2}
LATENT: dict[str, Any] = {"in_ch": 3, "out_ch": 3, "ch": 4, "ch_mult": [1, 2], "embed_dim": 5}
KINDS: dict[str, tuple[str, dict[str, Any], str | None]] = {
    "pixels": ("ConditionalNAFNet", {**NAF, "task": "deraining"}, "deraining"),
    "larger": ("ConditionalNAFNet", {**NAF, "task": "sisr"}, "sisr"),
    "stereo": ("ConditionalNAFNet", {**NAF, "task": "stereo-sr"}, None),
    "white noise": ("ConditionalNAFNet", {**NAF, "task": "denoising-sde"}, None),
    "bokeh": ("ConditionalNAFNet", {**NAF, "img_channel": 5, "task": "latent-bokeh"}, None),
    "latents": ("ConditionalNAFNet", {**NAF, "img_channel": 5, "task": "latent-dehazing"}, None),
    "unet": ("ConditionalUNet", {**UNET, "task": "deshadow"}, "deshadow"),
    "unet, white noise": ("ConditionalUNet", {**UNET, "task": "denoising-sde"}, None),
    "unet, latents": ("ConditionalUNet", {**UNET, "in_nc": 5, "task": "latent-dehazing"}, None),
}
PARTNERED = {name for name, (_, settings, _) in KINDS.items() if settings["task"].startswith("latent")}


def weights(cls: str, settings: dict[str, Any]) -> State:
    """Random tensors with which every part counts and nothing grows."""
    draw = torch.Generator().manual_seed(1)
    made = {}
    for name, shape in published.shapes(cls, settings).items():
        x = torch.randn(shape, generator=draw)
        gain = 1 + 0.3 * x if name.endswith(".g") else 0.5 * x
        made[name] = 0.5 * x / x[0].numel() ** 0.5 if name.endswith("weight") else gain
    return made


def files(folder: Path, kind: str) -> list[Path]:
    """The published files of a kind: wrapped in two ways."""
    cls, settings, _ = KINDS[kind]
    state = weights(cls, settings)
    torch.save({"params": {}, "params_ema": {f"module.{n}": x for n, x in state.items()}}, folder / "g.pth")
    if kind not in PARTNERED:
        return [folder / "g.pth"]
    torch.save(weights("UNet", LATENT), folder / "autoencoder.pth")
    return [folder / "g.pth", folder / "autoencoder.pth"]


# ---- what is published comes in


GOLDEN = Path(__file__).parents[1] / "golden"
MANIFESTS = json.loads((GOLDEN / "manifests.json").read_text())
NETWORKS = {f"{n['task']}-{n['sha']}-{n['phase']}": n for n in MANIFESTS["networks"]}
DISTINCT = {(n["task"], n["sha"]): name for name, n in NETWORKS.items()}  # options for training come last


@pytest.mark.slow
@pytest.mark.parametrize("name", DISTINCT.values())
def test_every_manifest_is_imported(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """On tensors without memory, as large as published; an autoencoder with the network of its latents."""
    one, every = NETWORKS[name], NETWORKS.values()
    network = one if one["cls"] != "UNet" else next(n for n in every if fits(n, one))
    partner = next((n for n in every if n["cls"] == "UNet" and fits(network, n)), None)
    origins = [network, *([partner] if partner else [])]

    def empty(path: Path) -> published.Weights:
        shapes = MANIFESTS["shapes"][origins[int(path.name)]["sha"]]
        return published.Weights({n: torch.empty(x, device="meta") for n, x in shapes.items()}, "params")

    monkeypatch.setattr(published, "read", empty)
    model = imported([str(i) for i in range(len(origins))], network["task"])
    process, described = model.spec.process, network["sde"]
    assert process.noise_level == pytest.approx(described["max_sigma"] / 255)
    assert process.steps == model.spec.sampling.steps == described["T"]
    assert process.delta == described.get("eps", 0.04)
    assert model.spec.views == (2 if network["task"] == "stereo-sr" else 1)
    assert model.spec.enlarge.factor == (4 if network["task"].endswith("sr") else 1)
    parts = [model.restorer.network, *([model.restorer.codec] if partner else [])]
    for part, origin in zip(parts, origins, strict=True):
        shapes = {n: list(x.shape) for n, x in published.to_published(part).items()}
        assert shapes == MANIFESTS["shapes"][origin["sha"]]


def fits(network: dict[str, Any], autoencoder: dict[str, Any]) -> bool:
    """Whether the network works in the autoencoder's latents."""
    return bool(network["setting"].get("img_channel") == autoencoder["setting"].get("embed_dim", 0))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_is_saved_and_given_back_to_the_bit(tmp_path: Path, kind: str) -> None:
    found, task = files(tmp_path, kind), KINDS[kind][2]
    model = imported(found[::-1], task)
    assert model.card.task == KINDS[kind][1]["task"]
    checkpoint.save(tmp_path / "model.safetensors", model.restorer, model.spec, model.card)
    for suffix in (".pth", ".safetensors"):
        out = tmp_path / "back" / f"g{suffix}"
        said = write_published(tmp_path / "model.safetensors", out)
        assert len(said) == 1 + len(found)
        for path, back in zip(found, (out, out.with_stem("g-autoencoder")), strict=False):
            before, after = published.read(path).tensors, published.read(back).tensors
            assert before.keys() == after.keys()
            assert suffix != ".pth" or list(before) == list(after)
            assert all(torch.equal(x, after[name]) for name, x in before.items())
    again = imported([tmp_path / "back" / path.name.replace("auto", "g-auto") for path in found], task)
    assert again.spec == model.spec


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["pixels", "larger", "latents", "unet"])
def test_an_imported_model_walks_as_published(tmp_path: Path, kind: str) -> None:
    """x_{t-1} is the posterior's mean and noise, of what the published network says; nothing is clamped."""
    cls, settings, task = KINDS[kind]
    found = files(tmp_path, kind)
    model = imported(found, task, steps=4)
    picture = torch.rand(1, 3, 13, 18)
    network = published.build(cls, settings, weights(cls, settings))
    codec = published.build("UNet", LATENT, weights("UNet", LATENT)) if kind == "latents" else None
    lq = picture.repeat_interleave(4, 2).repeat_interleave(4, 3) if kind == "larger" else picture
    mu, hidden = codec.encode(lq) if isinstance(codec, published.Autoencoder) else (lq, ())
    sde, draw = model.restorer.sde, noise_source(mu, 7)
    assert isinstance(sde, MeanRevertingSDE)
    x = mu + sde.noise_level * draw()
    alpha = sde.alphas.float()
    for t in (4, 3, 2, 1):
        deviation = sde.noise_level * torch.sqrt(1 - alpha[t] ** 2)
        x0 = mu + (x - mu - deviation * network(x, mu, t)) / alpha[t]
        a, r = alpha[t] / alpha[t - 1], alpha[t - 1]
        from_x, from_x0 = a * (1 - r**2) / (1 - alpha[t] ** 2), r * (1 - a**2) / (1 - alpha[t] ** 2)
        noise = sde.noise_level * torch.sqrt((1 - r**2) * (1 - a**2) / (1 - alpha[t] ** 2))
        x = mu + from_x * (x - mu) + from_x0 * (x0 - mu)
        x = x + noise * draw() if t > 1 else x
    expected = codec.decode(x, hidden) if isinstance(codec, published.Autoencoder) else x
    assert x.abs().max() > 1
    restored = model.restorer.restore_batch(picture, seed=7)
    torch.testing.assert_close(restored, expected.clamp(0, 1), rtol=0, atol=1e-4)
    assert float((restored - lq).abs().mean()) > 0.02


def test_what_is_known_replaces_what_is_published(tmp_path: Path) -> None:
    (file,) = files(tmp_path, "larger")
    model = imported(
        [file], "sisr", noise_level=0.1, steps=30, delta=0.01, enlarge=2, mode="bicubic", local=(8, 9)
    )
    spec = model.spec
    assert (spec.process.noise_level, spec.process.steps, spec.process.delta) == (0.1, 30, 0.01)
    assert (spec.enlarge.factor, spec.enlarge.mode) == (2, "bicubic")
    assert spec.sampling.steps == 30
    assert spec.network.local == model.restorer.network.local == (8, 9)
    assert [note.split(",")[0] for note in model.notes[1:]] == ["schedule cosine", "long_skip false"]
    skipping = imported([file], "deraining", long_skip=True)
    assert skipping.restorer.network.long_skip
    assert skipping.spec.network.long_skip


# ---- what does not


def test_what_does_not_fit_is_one_line(tmp_path: Path) -> None:
    found = {kind: files(_made(tmp_path / kind), kind) for kind in ("pixels", "stereo", "latents", "unet")}
    (pixels,), (stereo,), (unet,) = found["pixels"], found["stereo"], found["unet"]
    network, autoencoder = found["latents"]
    cases: list[tuple[list[Path], str | None, dict[str, Any], str]] = [
        (
            [pixels],
            None,
            {},
            "g.pth: fits deblurring, deraining, deshadow, inpainting, sisr; choose one with --task",
        ),
        ([pixels], "derainning", {}, "task derainning, did you mean deraining"),
        ([unet], "latent-bokeh", {}, "task latent-bokeh.*: there are deblurring"),
        ([pixels], "stereo-sr", {}, "g.pth: encoders.0.0.fusion.beta is no such tensor"),
        ([stereo], "deraining", {}, "g.pth: encoders.0.0.fusion.beta is .1, 4, 1, 1., .* no such tensor"),
        ([network], None, {}, "latent-dehazing works in latents; give their autoencoder with --partner"),
        ([autoencoder], None, {}, "autoencoder.pth: an autoencoder; give the network"),
        ([network, stereo, autoencoder], None, {}, "ConditionalNAFNet each; give one network"),
        ([network, autoencoder, autoencoder], None, {}, "UNet each; give one network"),
        ([pixels, autoencoder], "deraining", {}, "deraining works on pixels.*: leave .*autoencoder.pth out"),
        ([network], "deraining", {}, "g.pth: 5 channels, and deraining sees pictures"),
        ([pixels, autoencoder], "latent-dehazing", {}, "g.pth: 3 channels, and latent-dehazing sees latents"),
        ([pixels], "deraining", {"noise_level": 50.0}, "g.pth: noise_level is 50.0: .*50/255"),
        ([pixels], "deraining", {"steps": 0}, "g.pth: process.steps is 0"),
        ([pixels], "deraining", {"delta": 2.0}, "g.pth: delta 2.0"),
        ([pixels], "deraining", {"schedule": "cosin"}, "process.schedule is 'cosin'"),
        ([pixels], "sisr", {"mode": "linear"}, "enlarge.mode is 'linear'"),
        (
            [unet],
            "deraining",
            {"long_skip": True},
            "ConditionalUNet has no such variant; leave out --long-skip",
        ),
        ([unet], "deraining", {"local": (8, 8)}, "leave out --local"),
        ([tmp_path / "none.pth"], None, {}, "none.pth: No such file"),
    ]
    for paths, task, known, expected in cases:
        with pytest.raises(CheckpointError) as caught:
            imported(paths, task, **known)
        assert "\n" not in str(caught.value)
        assert re.search(expected, str(caught.value)), str(caught.value)
    with pytest.raises(TypeError, match="unknown fact lambda"):
        imported([pixels], "deraining", **{"lambda": 1})


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_a_wrong_file_fails_by_the_first_tensor_that_differs(tmp_path: Path) -> None:
    (file,) = files(tmp_path, "pixels")
    state = published.read(file).tensors
    torch.save({**state, "middle_blks.0.conv1.weight": torch.zeros(3, 3)}, file)
    with pytest.raises(
        CheckpointError, match=r"g.pth: middle_blks.0.conv1.weight is \(3, 3\), .*\(16, 8, 1, 1\)"
    ):
        imported([file], "deraining")
    torch.save({"net.conv.weight": torch.zeros(1)}, file)
    with pytest.raises(CheckpointError, match=r"g.pth: no published network: .*net.conv.weight"):
        imported([file])


# ---- what does not go back


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "prediction is clean, and published is noise"),
        (
            {"model.prediction": "noise"},
            "codec is {'name': 'Pixels', 'factor': 2.* published are pixels and latents",
        ),
        (
            {"model.prediction": "noise", "model.codec.factor": 1, "model.network.conditions": 2},
            "network.conditions is 2, .* has 3",
        ),
        (
            {
                "model.prediction": "noise",
                "model.codec.factor": 1,
                "model.network.stereo": True,
                "model.network.downscale": 1,
            },
            "network.downscale is 1, .* has 4",
        ),
        (
            {"model.prediction": "noise", "model.codec": {"name": "LatentUNet", "unshuffle": 1}},
            "codec normalises its latents",
        ),
    ],
)
def test_what_published_code_computes_otherwise_stays(changes: dict[str, Any], expected: str) -> None:
    spec = parse(SMALLEST, "test", changes).model
    with pytest.raises(CheckpointError, match=expected):
        exported(spec.build(), spec)


def test_a_codec_of_other_arguments_stays() -> None:
    codec = {
        "name": "LatentUNet",
        "unshuffle": 1,
        "width": 4,
        "multipliers": [1, 2],
        "latent_channels": 3,
        "skips": 1,
    }
    spec = parse(SMALLEST, "test", {"model.prediction": "noise", "model.codec": codec}).model
    restorer = spec.build()
    for name, value in published.AS_THEY_ARE.items():
        restorer.codec.get_buffer(name).fill_(value)
    with pytest.raises(CheckpointError, match=r"codec.skips is 1, and published UNet has None"):
        exported(restorer, spec)


# ---- on the command line


def test_the_way_of_a_user(here: Path, run: Run) -> None:
    files(here, "latents")
    write(from_array(np.random.default_rng(0).random((21, 30, 3))), "photo.png")
    said = run("import", "g.pth", "--partner", "autoencoder.pth", "--noise-level", "30/255", "--steps", "6")
    assert (said.status, said.err) == (0, "")
    assert said.out.splitlines() == [
        "g.pth: params_ema, module.; ConditionalNAFNet, img_channel 5, width 4, enc_blk_nums [1], "
        "middle_blk_num 1, dec_blk_nums [1]",
        "autoencoder.pth: a state dict; UNet, in_ch 3, out_ch 3, ch 4, ch_mult [1, 2], embed_dim 5",
        "delta 0.005, as published for latent-dehazing; --delta says otherwise",
        "schedule cosine, as published for latent-dehazing; --schedule says otherwise",
        "long_skip true, as published for latent-dehazing; --long-skip says otherwise",
        "model.safetensors",
    ]
    said = run("info", "model.safetensors")
    assert "imported from g.pth (params_ema, module.), autoencoder.pth (a state dict)" in said.out
    assert "noise_level: 0.117647" in said.out
    said = run("restore", "photo.png", "--model", "model.safetensors", "-o", "clean.png", "--device", "cpu")
    assert (said.status, said.err) == (0, "")
    assert read("clean.png").size == (30, 21)
    said = run("export", "model.safetensors", "--to", "published", "-o", "back.pth")
    assert said.out.splitlines()[-1] == "the SDE: max_sigma 30, T 6, schedule cosine, eps 0.005"
    assert Path("back-autoencoder.pth").exists()
    said = run("export", "model.safetensors", "--to", "hub", "-o", "folder")
    assert said.out == "folder\n"
    assert refusion.load("folder", "cpu")


def test_what_goes_wrong_is_one_line(here: Path, run: Run) -> None:
    files(here, "pixels")
    for words, expected in (
        (["import", "g.pth"], "refusion: g.pth: fits deblurring, .*; choose one with --task"),
        (["import", "g.pth", "--task", "sisr", "--noise-level", "x"], "refusion: noise_level is 'x': give"),
        (
            ["import", "g.pth", "--task", "sisr", "--local", "8"],
            "refusion: local is '8': give height and width",
        ),
        (["export", "shadow-removal", "--to", "published", "-o", "x.pth"], "refusion: prediction is clean"),
        (
            ["export", "shadow-removal", "--to", "published", "-o", "folder"],
            "refusion: folder: published weights",
        ),
        (["export", "nothing", "--to", "hub", "-o", "x"], "refusion: nothing: neither a file nor"),
    ):
        said = run(*words)
        assert said.status == 1
        assert re.fullmatch(f"{expected}.*\n", said.err), said.err
        assert said.out == ""
