"""`evaluate`: a table of scores, as asked for or as published."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from terminal import TINY, assert_written, described, loaded, make_pairs, one_line, photo, save_model

import refusion
from command import Run
from refusion import cli
from refusion.diffusion.sampling import SAMPLERS
from refusion.evaluation import perceptual
from refusion.evaluation.evaluate import PROTOCOLS
from refusion.evaluation.perceptual import METRICS, Perceptual
from refusion.imaging.formats import read
from refusion.imaging.lens import Lens, condition
from refusion.training.recipe import parse


def test_evaluating_prints_a_table_and_writes_the_rest(run: Run, model: Path) -> None:
    pairs = make_pairs("pairs")
    said = run(
        "evaluate",
        pairs,
        "--model",
        model,
        "--csv",
        "scores.csv",
        "--save",
        "out",
        "--border",
        "2",
        "--steps",
        "3",
        "--seed",
        "5",
    )
    assert said.status == 0
    head, first, second = said.out.splitlines()
    assert head.split() == ["3", "pictures", "PSNR", "SSIM", "PSNR-Y", "SSIM-Y"]
    assert first.split() == ["input", "100.00", "1.0000", "100.00", "1.0000"]
    assert second.split()[0] == "output"
    lines = Path("scores.csv").read_text().splitlines()
    assert lines[0].startswith("name,input_psnr")
    assert [line.split(",")[0] for line in lines[1:]] == ["0", "1", "2"]
    mean = np.mean([float(line.split(",")[5]) for line in lines[1:]])
    assert float(second.split()[1]) == pytest.approx(mean, abs=0.006)
    expected = refusion.load(model, "cpu")(read(pairs / "lq" / "1.png"), steps=3, seed=5)
    np.testing.assert_allclose(read("out/1.png").pixels, expected.pixels, atol=0.51 / 255)


def test_guides_of_the_pairs_are_given_or_left_out(run: Run) -> None:
    guided = parse(TINY, "test", {"model.network.guides": 1})
    file = save_model(Path("guided.safetensors"), 0.2, guided)
    pairs = make_pairs("pairs", 1)
    photo("pairs/guide/0.png", 7, 16, 20)
    restore, lq = refusion.load(file, "cpu"), read(pairs / "lq" / "0.png")
    guide = read("pairs/guide/0.png").pixels.mean(-1)[None]
    expected = {"--guides": restore(lq, guides=guide).pixels, "--no-guides": restore(lq).pixels}
    assert np.abs(expected["--guides"] - expected["--no-guides"]).max() > 0.01
    for flag, pixels in expected.items():
        assert run("evaluate", pairs, "--model", file, "--save", flag.strip("-"), flag).status == 0
        np.testing.assert_allclose(read(f"{flag.strip('-')}/0.png").pixels, pixels, atol=0.51 / 255)


def test_pairs_that_fail_are_told_and_the_others_count(run: Run, model: Path) -> None:
    pairs = make_pairs("pairs")
    whole = run("evaluate", make_pairs("two", 2), "--model", model)
    (pairs / "lq" / "2.png").write_bytes(b"no picture")
    said = run("evaluate", pairs, "--model", model, "--csv", "scores.csv")
    assert said.status == 1
    assert said.out == f"{whole.out}1 of 3 failed, and do not count\n"
    assert "2.png is not a picture" in said.err
    assert len(said.err.splitlines()) == 1
    assert len(Path("scores.csv").read_text().splitlines()) == 3
    for path in (pairs / "lq").iterdir():
        path.write_bytes(b"no picture")
    said = run("evaluate", pairs, "--model", model)
    assert (said.status, said.out, len(said.err.splitlines())) == (1, "", 3)


@pytest.mark.slow
def test_protocols_measure_as_published(run: Run) -> None:
    pairs, total = make_pairs("pairs", 1), 3
    short = parse(described(process={"noise_level": "50/255", "steps": total}), "test")
    save_model(Path("short.safetensors"), 0.3, short)
    same = ("evaluate", pairs, "--model", "short.safetensors", "--seed", "3")
    for name, fixed in PROTOCOLS.items():
        first, *scores = run(*same, "--protocol", name).out.splitlines()
        assert first == f"protocol {name}: {fixed}"
        options = (
            "--border",
            fixed.border,
            "--steps",
            total,
            "--sampler",
            fixed.sampler,
            "--precision",
            "32",
        )
        assert scores == run(*same, *options).out.splitlines()
    one_line(run(*same, "--protocol", name, "--steps", 3, "--eta", 1), "fixes --steps and --eta: leave")


def helps(command: str) -> dict[str, str]:
    """What the help of a command says of each parameter."""
    arguments = cli.app[command].assemble_argument_collection(parse_docstring=True)
    return {argument.name: argument.parameter.help or "" for argument in arguments}


@pytest.mark.parametrize("command", ["restore", "evaluate"])
def test_help_names_every_sampler(command: str) -> None:
    named, rest = helps(command)["--sampler"].split(", or ")
    assert named.split(", ") == list(SAMPLERS)
    assert rest == "one of your own."


def test_help_names_every_protocol() -> None:
    (named,) = re.findall("steps: (.*);", helps("evaluate")["--protocol"])
    assert re.split(", | or ", named) == list(PROTOCOLS)


def test_help_names_every_metric() -> None:
    (named,) = re.findall(r"NAME is one of (.*)\.$", helps("evaluate")["--metric"])
    assert named.split(", ") == list(METRICS)


def test_metrics_are_columns(run: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loaded for where the model is, and asked for as often as wanted."""
    wanted = []

    def load_metrics(metrics: tuple[str, ...], device: torch.device) -> Perceptual:
        wanted.append((metrics, device))
        worst = {"lpips-alex": lambda a, b: (a - b).abs().amax((1, 2, 3)) + 0.25}
        return Perceptual(worst, lambda x: x[:, :, :2, :2].flatten(1))

    monkeypatch.setattr(perceptual, "load", load_metrics)
    pairs = make_pairs("pairs", 2)
    said = run(
        *("evaluate", pairs, "--model", model, "--device", "cpu", "--csv", "scores.csv"),
        *("--metric", "lpips-alex=a,b", "--metric", "fid=c"),
    )
    assert wanted == [(("lpips-alex=a,b", "fid=c"), torch.device("cpu"))]
    head, first, second = said.out.splitlines()
    assert head.split()[2:] == ["PSNR", "SSIM", "PSNR-Y", "SSIM-Y", "LPIPS-ALEX", "FID"]
    assert first.split()[5:] == ["0.2500", "0.0000"]
    assert float(second.split()[5]) > 0.25
    assert len({len(line) for line in (head, first, second)}) == 1
    header = Path("scores.csv").read_text().splitlines()[0]
    assert header.endswith(",ssim_y,input_lpips_alex,lpips_alex,input_fid,fid")


def test_metrics_without_weights_need_no_files(run: Run, model: Path) -> None:
    pairs = make_pairs("pairs", 2)
    names = ["ssimulacra2", "swd", "spectrum", "detail"]
    asked = [part for name in names for part in ("--metric", name)]
    said = run("evaluate", pairs, "--model", model, "--device", "cpu", "--csv", "scores.csv", *asked)
    head, first, second = said.out.splitlines()
    assert head.split()[6:] == [name.upper() for name in names]
    assert all(len(line.split()) == 9 for line in (first, second))
    header = Path("scores.csv").read_text().splitlines()[0]
    assert header.endswith(",".join(f"input_{name},{name}" for name in names))


def test_evaluating_takes_sigma_too(run: Run, models: Path) -> None:
    make_pairs("pairs", 2)
    model = models / "denoising.safetensors"
    said = run("evaluate", "pairs", "--model", model, "--sigma", "25/255", "--save", "out")
    assert said.status == 0
    expected = loaded(models, "denoising")(read("pairs/lq/1.png"), sigma=25 / 255)
    assert_written("out/1.png", expected.pixels)


def test_each_pair_is_measured_with_its_own_lenses(run: Run, models: Path) -> None:
    names = {
        "0": ("Canon50mmf1.4BS", "Sony50mmf16.0BS", 42.5),
        "1": ("Sony50mmf16.0BS", "Canon50mmf1.4BS", 10.0),
    }
    pairs = make_pairs("pairs", 2)
    lines = (
        f"{name}, {source}, {target}, {disparity}" for name, (source, target, disparity) in names.items()
    )
    (pairs / "meta.txt").write_text("\n".join(lines))
    said = run("evaluate", pairs, "--model", models / "bokeh.safetensors", "--save", "out")
    assert (said.status, said.err) == (0, "")
    bokeh = loaded(models, "bokeh")
    for name, (source, target, disparity) in names.items():
        wanted = condition(Lens.parse(source), Lens.parse(target), disparity)
        assert_written(f"out/{name}.png", bokeh(pairs / "lq" / f"{name}.png", condition=wanted).pixels)
