"""Every command in the process, as users run it; whatever goes wrong is one line and an exit status."""

import logging
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import pytest
import torch
import yaml

import refusion
from refusion import checkpoint, cli, tiling
from refusion.checkpoint import save
from refusion.evaluate import PROTOCOLS
from refusion.image import from_array, read, write
from refusion.perceptual import Perceptual
from refusion.recipe import Card, parse
from tiny import SMALLEST

TINY: dict[str, Any] = {
    **SMALLEST,
    "sampling": {"steps": 2},
}


class Said(NamedTuple):
    status: int
    out: str
    err: str


Run = Callable[..., Said]


def save_model(path: Path, std: float) -> Path:
    """Weights of a deviation; of zero, a network that leaves every picture as it is."""
    described = parse(TINY, "test")
    restorer = described.build()
    torch.manual_seed(2)
    for parameter in restorer.network.parameters():
        torch.nn.init.normal_(parameter, std=std)
    save(path, restorer, described, Card(summary="For tests.", terms="None.", metrics={"psnr": 30.25}))
    return path


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("cli") / "tiny.safetensors", 0.3)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test works in a folder of its own."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """`main` with the given words: what it says, and its exit status."""

    def call(*words: object) -> Said:
        capsys.readouterr()
        app = partial(cli.app, [str(word) for word in words])
        with monkeypatch.context() as patch:
            patch.setattr(cli, "app", app)
            with pytest.raises(SystemExit) as caught:
                cli.main()
        said = Said(int(caught.value.code or 0), *capsys.readouterr())
        assert "Traceback" not in said.err
        return said

    return call


def photo(path: str, seed: int = 0, height: int = 8, width: int = 10) -> Path:
    place = Path(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    write(from_array(np.random.default_rng(seed).uniform(0.2, 0.8, (height, width, 3))), place)
    return place


def make_pairs(folder: str, count: int = 3) -> Path:
    for i in range(count):
        for side in ("lq", "gt"):
            photo(f"{folder}/{side}/{i}.png", i, height=16, width=20 + 2 * i)
    return Path(folder)


def one_line(said: Said, *parts: str, status: int = 1) -> None:
    assert said.status == status, said
    assert said.err.count("\n") == 1, said.err
    assert said.err.startswith("refusion: ")
    for part in parts:
        assert part in said.err


# ---- restore


def test_files_folders_and_patterns_are_restored(run: Run, model: Path) -> None:
    photo("one.png")
    photo("holiday/a.jpg", 1)
    photo("holiday/day 2/ü.tif", 2)
    photo("scans/s1.png", 3)
    photo("scans/s2.webp", 4)
    said = run("restore", "one.png", "holiday", "scans/*.png", "--model", model)
    assert said == (0, "restored 4 of 4 to restored\n", "")
    results = sorted(str(p.relative_to("restored")) for p in Path("restored").rglob("*") if p.is_file())
    assert results == ["a.jpg", str(Path("day 2/ü.tif")), "one.png", "s1.png"]
    expected = refusion.load(model, "cpu")(read("one.png")).pixels
    np.testing.assert_allclose(read("restored/one.png").pixels, expected, atol=0.51 / 255)
    assert np.abs(expected - read("one.png").pixels).max() > 0.05


def test_options_reach_the_sampler(run: Run, model: Path) -> None:
    photo("a.png")
    said = run(
        "restore",
        "a.png",
        "-o",
        "b.tif",
        "--model",
        model,
        "--steps",
        "3",
        "--sampler",
        "ode-2",
        "--seed",
        "4",
    )
    assert said.status == 0
    expected = refusion.load(model, "cpu")(read("a.png"), steps=3, sampler="ode-2", seed=4).pixels
    np.testing.assert_allclose(read("b.tif").pixels, expected, atol=0.51 / 255)


def test_bad_files_are_a_line_each_and_the_others_are_restored(run: Run, model: Path) -> None:
    good = [photo("in/a.png"), photo("in/z.jpg")]
    hostile = {
        "cut.png": good[0].read_bytes()[:60],
        "empty.jpg": b"",
        "page.png": b"<html>404</html>",
        "noise.tif": np.random.default_rng(0).bytes(500),
        "cut.jpg": good[1].read_bytes()[:200],
    }
    for name, content in hostile.items():
        Path("in", name).write_bytes(content)
    Path("in/notes.txt").write_text("not meant")
    Path("in/.hidden.png").write_bytes(b"")
    said = run("restore", "in", "--model", model)
    assert said.status == 1
    assert said.out == "restored 2 of 7 to restored; 5 failed\n"
    lines = said.err.splitlines()
    assert len(lines) == 5
    for name in hostile:
        assert sum(name in line for line in lines) == 1, name
    assert all(line.startswith("refusion: ") for line in lines)
    assert sorted(p.name for p in Path("restored").iterdir()) == ["a.png", "z.jpg"]


def test_a_second_run_skips_what_is_done(run: Run, model: Path) -> None:
    photo("in/a.png")
    photo("in/b.png")
    run("restore", "in", "--model", model)
    first = Path("restored/a.png").read_bytes()
    Path("restored/a.png").write_bytes(b"mine")
    Path("restored/b.png").unlink()
    said = run("restore", "in", "--model", model)
    assert said.out == "restored 1 of 2 to restored; 1 were there already (--overwrite redoes them)\n"
    assert said.status == 0
    assert Path("restored/a.png").read_bytes() == b"mine"
    assert run("restore", "in", "--model", model, "--overwrite").out == "restored 2 of 2 to restored\n"
    assert Path("restored/a.png").read_bytes() == first


def test_a_result_inside_its_own_folder_is_no_source(run: Run, model: Path) -> None:
    photo("a.png")
    for _ in range(2):
        assert run("restore", ".", "--model", model).status == 0
        assert [str(p) for p in Path("restored").rglob("*.png")] == [str(Path("restored/a.png"))]


def test_a_result_never_replaces_its_source(run: Run, model: Path) -> None:
    before = photo("in/a.png").read_bytes()
    one_line(
        run("restore", "in", "-o", "in", "--model", model), "a.png would be replaced", "give another --out"
    )
    one_line(run("restore", "in/a.png", "-o", "in/../in/a.png", "--model", model), "would be replaced")
    assert Path("in/a.png").read_bytes() == before


def test_two_sources_of_one_name_are_an_error(run: Run, model: Path) -> None:
    photo("a/x.png")
    photo("b/x.png", 1)
    said = run("restore", "a", "b", "--model", model)
    assert (said.status, said.out) == (1, "restored 1 of 2 to restored; 1 failed\n")
    taken, first, second = (Path(p) for p in ("restored/x.png", "a/x.png", "b/x.png"))
    assert said.err == f"refusion: {taken} is taken by {first}: restore {second} apart\n"
    assert "y.png is taken by" in run("restore", "a", "b/x.png", "-o", "y.png", "--model", model).err
    again = run("restore", "a", "a/x.png", "-o", "twice", "--model", model)
    assert again.out == "restored 1 of 1 to twice\n"


def test_a_missing_picture_does_not_stop_the_others(run: Run, model: Path) -> None:
    photo("a.png")
    said = run("restore", "missing.png", "a.png", "--model", model)
    assert (said.status, said.out) == (1, "restored 1 of 2 to restored; 1 failed\n")
    assert said.err == "refusion: missing.png does not exist: check its name and folder\n"
    assert Path("restored/a.png").exists()


def test_samples_give_their_mean_and_uncertainty(run: Run, model: Path) -> None:
    photo("in/a.png")
    assert run("restore", "in", "--model", model, "--samples", "3", "--uncertainty").status == 0
    drawn = refusion.load(model, "cpu").samples(read("in/a.png"), 3)
    np.testing.assert_allclose(read("restored/a.png").pixels, drawn.mean.pixels, atol=0.51 / 255)
    shown = read("restored/a-uncertainty.png")
    assert shown.grey
    np.testing.assert_allclose(shown.pixels[..., 0], (10 * drawn.deviation).clip(0, 1), atol=0.51 / 255)
    one_line(run("restore", "in", "-o", "b", "--model", model, "--uncertainty"), "needs --samples")


def test_a_trajectory_is_an_animation(run: Run, model: Path) -> None:
    photo("a.png")
    said = run("restore", "a.png", "-o", "b.png", "--model", model, "--steps", "4", "--trajectory", "t.gif")
    assert said.status == 0
    with PIL.Image.open("t.gif") as film:
        assert (film.n_frames, film.size) == (5, (10, 8))
    photo("c.png")
    one_line(run("restore", "a.png", "c.png", "--model", model, "--trajectory", "t.gif"), "a single picture")
    said = run("restore", "c.png", "--model", model, "--trajectory", "t.mp4")
    assert said.status == 1
    assert "name an animation .gif" in said.err


def test_nothing_changed_is_said(run: Run, here: Path) -> None:
    idle = save_model(here / "idle.safetensors", 0.0)
    photo("a.png")
    said = run("restore", "a.png", "--model", idle)
    one_line(said, "a.png: nothing changed", status=0)
    assert Path("restored/a.png").exists()


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("restore", "none.png"), "none.png does not exist"),
        (("restore", "*.jpg"), "*.jpg gives no pictures"),
        (("restore", "."), "gives no pictures"),
        (("restore", "{a}", "--model", "none"), "none: neither a file nor a bundled model"),
        (("restore", "{a}", "--model", "{a}"), "not a whole safetensors file"),
        (("restore", "{a}", "--model", "{m}", "--steps", "101"), "steps is 101"),
        (("restore", "{a}", "--model", "{m}", "--sampler", "ode2"), "did you mean ode-2?"),
        (("restore", "{a}", "--model", "{m}", "--eta", "2"), "eta is 2"),
        (("restore", "{a}", "--model", "{m}", "--tile", "64"), "tile is 64: give at least 128 pixels"),
        (("restore", "{a}", "--model", "{m}", "--device", "nonsense"), "nonsense"),
        (("restore", "{a}", "--model", "{m}", "-o", "{a}/b"), "photo.png"),
        (("restore", "{a}", "--model", "{m}", "--samples", "0"), "samples"),
        (("restore", "{a}", "--model", "{m}", "-o", "b.gif"), "b.gif: name a file with one of .png"),
        (("evaluate", "none"), "no such folder"),
        (("evaluate", "pairs", "--model", "{m}", "--border", "8"), "border is 8"),
        (("evaluate", "pairs", "--model", "{m}", "--border", "-1"), "border is -1"),
        (("evaluate", "pairs", "--model", "{m}", "--protocol", "papre"), "did you mean paper?"),
        (
            ("evaluate", "pairs", "--model", "{m}", "--protocol", "paper", "--border", "0"),
            "fixes --border: leave",
        ),
        (("evaluate", "pairs", "--model", "{m}", "--metric", "fid"), "fid comes without weights"),
        (("doctor", "none"), "no such folder"),
        (("diffuse", "{a}", "none.png"), "none.png does not exist"),
        (("diffuse", "{a}", "pairs/gt/0.png"), "10x8 and 20x16"),
        (("diffuse", "{a}", "{a}", "--noise-level", "50"), "50/255"),
        (("diffuse", "{a}", "{a}", "--noise-level", "1/0"), "1/0"),
        (("diffuse", "{a}", "{a}", "--noise-level", "much"), "much"),
        (("diffuse", "{a}", "{a}", "--schedule", "cos"), "'cosine'"),
        (("diffuse", "{a}", "{a}", "--steps", "0"), "steps"),
        (("info", "none"), "none: neither a file nor a bundled model"),
        (("info", "{a}"), "not a whole safetensors file"),
        (("train", "none.yaml"), "none.yaml"),
        (("train", "{r}", "--dry-run", "--training.stps", "3"), "did you mean steps?"),
        (("train", "{r}", "--dry-run", "--training.steps"), "--training.steps 1000"),
        (("train", "{r}", "--dry-run", "--network.encoder", "[1"), "network.encoder"),
        (("train", "{r}", "--dry-run", "--process.noise_level=50"), "50/255"),
        (("train", "{r}", "--dry-run", "training.steps=3"), "--training.steps 1000"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "expected",
)
def test_errors_are_one_line(run: Run, model: Path, words: tuple[str, ...], part: str) -> None:
    if words != ("restore", "."):
        make_pairs("pairs")
        photo("photo.png")
        Path("tiny.yaml").write_text(yaml.safe_dump(TINY))
    one_line(run(*(word.format(a="photo.png", m=model, r="tiny.yaml") for word in words)), part)


def test_an_interruption_is_no_traceback(run: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    photo("a.png")
    monkeypatch.setattr(cli, "_restore_one", stop)
    one_line(run("restore", "a.png", "--model", model), "stopped", status=130)


def test_too_large_a_picture_is_one_that_failed(
    run: Run, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its neighbours are restored, whichever way the memory's end is told."""
    for i in range(3):
        photo(f"in/{i}.png", i)
    ends = iter([MemoryError("no room"), RuntimeError("DefaultCPUAllocator: can't allocate memory"), None])
    original = cli._restore_one

    def restore_one(*args: Any) -> None:
        if error := next(ends):
            raise error
        original(*args)

    monkeypatch.setattr(cli, "_restore_one", restore_one)
    said = run("restore", "in", "--model", model)
    assert said.status == 1
    assert said.out == "restored 1 of 3 to restored; 2 failed\n"
    assert len(said.err.splitlines()) == 2


@pytest.mark.parametrize(
    "words", [("restore", "pairs/lq"), ("evaluate", "pairs")], ids=["restore", "evaluate"]
)
def test_what_is_tiled_is_said_once(
    run: Run,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    words: tuple[str, str],
) -> None:
    """And the package's log is left as it was, for programs that import it."""
    for name, value in {"LARGEST_WHOLE": 60, "PATCH": 8, "PATCHES": 1, "SMALLEST_OF_STATE": 8}.items():
        monkeypatch.setattr(tiling, name, value)
    make_pairs("pairs", 2)
    log = logging.getLogger("refusion")
    before = log.level, log.propagate, list(log.handlers)
    said = run(*words, "--model", model, "--tile", "128")
    assert said.status == 0
    first, second = said.err.splitlines()
    places = ["pairs/lq/0.png: ", "pairs/lq/1.png: "] if words[0] == "restore" else ["", ""]
    assert first.startswith(f"refusion: {places[0]}state of 10x8: tiles of 64, ")
    assert second.startswith(f"refusion: {places[1]}state of 11x8: tiles of 64, ")
    assert caplog.messages == []  # not by a logger above, too
    assert (log.level, log.propagate, log.handlers) == before


# ---- evaluate, doctor


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


def test_protocols_measure_as_published(run: Run) -> None:
    pairs, total = make_pairs("pairs", 1), 3
    described = parse({**TINY, "process": {"noise_level": "50/255", "steps": total}}, "test")
    save(Path("short.safetensors"), described.build(), described, Card())
    same = ("evaluate", pairs, "--model", "short.safetensors", "--seed", "3")
    shown = " ".join(run("evaluate", "--help").out.replace("│", "").split())
    for name, fixed in PROTOCOLS.items():
        first, *scores = run(*same, "--protocol", name).out.splitlines()
        assert first == f"protocol {name}: {fixed}"
        options = ("--border", fixed.border, "--steps", total, "--sampler", fixed.sampler)
        assert scores == run(*same, *options).out.splitlines()
        assert f"{name} (border {fixed.border}" in shown
    one_line(run(*same, "--protocol", name, "--steps", 3, "--eta", 1), "fixes --steps and --eta: leave")


def test_metrics_are_columns(run: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loaded for where the model is, and asked for as often as wanted."""
    wanted = []

    def load_metrics(metrics: tuple[str, ...], device: torch.device) -> Perceptual:
        wanted.append((metrics, device))
        worst = {"lpips-alex": lambda a, b: (a - b).abs().amax((1, 2, 3)) + 0.25}
        return Perceptual(worst, lambda x: x[:, :, :2, :2].flatten(1))

    monkeypatch.setattr(cli, "load_metrics", load_metrics)
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


def test_doctor_says_what_is_there(run: Run) -> None:
    said = run("doctor", make_pairs("pairs"), "--sheet", "sheet.png")
    assert said == (0, "pairs: 3 pairs: 1 of 20x16, 1 of 22x16, 1 of 24x16\nsheet.png\n", "")
    assert read("sheet.png").size == (480, 320)


def test_doctor_says_all_that_is_wrong(run: Run) -> None:
    pairs = make_pairs("pairs")
    photo("pairs/lq/alone.png")
    photo("pairs/lq/sizes.png")
    photo("pairs/gt/sizes.png", height=9)
    (pairs / "gt" / "1.png").write_bytes(b"broken")
    said = run("doctor", pairs)
    assert said.status == 1
    assert said.out.startswith("pairs: 2 pairs")
    assert len(said.err.splitlines()) == 3
    for part in ("lq/alone", "10x8 and 10x9", "1.png is not a picture"):
        assert part in said.err


def test_doctor_looks_at_train_and_val(run: Run) -> None:
    make_pairs("data/train", 2)
    make_pairs("data/val", 1)
    said = run("doctor", "data", "--sheet", "s.png")
    assert said.status == 0
    assert "2 pairs" in said.out
    assert "1 pairs" in said.out
    assert Path("s-train.png").exists()
    assert Path("s-val.png").exists()


# ---- diffuse, models, info, train


def test_diffusing_is_an_animation_or_a_folder(run: Run) -> None:
    photo("gt.png", 0)
    photo("lq.png", 1)
    assert run("diffuse", "gt.png", "lq.png", "--steps", "6") == (0, "diffuse.gif\n", "")
    with PIL.Image.open("diffuse.gif") as film:
        assert film.n_frames == 7
    for noise, name in (((), "noisy"), (("--mean",), "mean")):
        assert run("diffuse", "gt.png", "lq.png", "-o", name, "--steps", "3", *noise).status == 0
        assert sorted(p.name for p in Path(name).iterdir()) == [f"{t:04}.png" for t in range(4)]
        np.testing.assert_array_equal(read(f"{name}/0000.png").pixels, read("gt.png").pixels)
    ends = [np.abs(read(f"{n}/0003.png").pixels - read("lq.png").pixels).mean() for n in ("noisy", "mean")]
    assert ends[0] > 0.1
    assert ends[1] < 0.01


def test_models_are_listed_with_their_terms(run: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "BUNDLED", model.parent)
    said = run("models")
    assert said.status == 0
    for part in ("tiny: test, 0.0 M parameters", "For tests.", "None.", "psnr 30.25"):
        assert part in said.out
    photo("a.png")
    assert run("restore", "a.png", "--model", "tiny").status == 0


def test_info_prints_card_and_recipe(run: Run, model: Path) -> None:
    said = run("info", model)
    assert said.status == 0
    assert "summary: For tests." in said.out
    assert "measured: psnr 30.25" in said.out
    described = yaml.safe_load(said.out.split("\n\n", 1)[1])
    assert parse(described, "info") == parse(TINY, "test")


def test_a_dry_run_prints_recipe_and_cost(run: Run) -> None:
    Path("tiny.yaml").write_text(yaml.safe_dump(TINY))
    said = run(
        "train", "tiny.yaml", "--dry-run", "--network.width", "8", "--data.folder=x", "--training.clip", "2"
    )
    assert said.status == 0
    assert "GMAC" in said.out.splitlines()[-1]
    text = said.out.rsplit("\n", 2)[0]
    described = parse(yaml.safe_load(text), "dry run")
    assert described == parse(TINY, "x", {"network.width": 8, "data.folder": "x", "training.clip": 2})
    assert list(Path().iterdir()) == [Path("tiny.yaml")]


def test_training_without_its_libraries_says_what_to_install(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("tiny.yaml").write_text(yaml.safe_dump(TINY))
    for name in ("refusion.train", "refusion.loop"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "lightning", None)
    one_line(run("train", "tiny.yaml"), "pip install 'refusion[train]'")


# ---- help and typing errors


def test_every_command_and_parameter_is_explained(run: Run) -> None:
    commands = [name for name in cli.app if not name.startswith("-")]
    assert set(commands) >= {"restore", "train", "evaluate", "doctor", "diffuse", "models", "info"}
    said = run("--help").out
    missing = []
    for name in commands:
        command = cli.app[name]
        assert name in said
        assert command.help, name
        for argument in command.assemble_argument_collection(parse_docstring=True):
            if argument.show and not argument.parameter.help:
                missing.append(f"{name} {argument.name}")
    assert missing == []
    assert "Usage: refusion restore" in run("restore", "--help").out
    assert run("--version").out.strip() == refusion.__version__


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("restroe", "a.png"), '"restore"'),
        (("restore", "a.png", "--modle", "x"), "--model"),
        (("restore", "a.png", "--stpes", "3"), "--steps"),
        (("restore",), "PATHS"),
        (("restore", "a.png", "--steps", "three"), '"three"'),
        (("doctor", "a", "--shet", "x.png"), "--sheet"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "expected",
)
def test_a_typing_error_is_one_line_with_what_is_near(run: Run, words: tuple[str, ...], part: str) -> None:
    one_line(run(*words), part, status=2)


# ---- a process of its own

ALONE = """
import sys, warnings
for name in ("lightning", "tensorboard", "pytorch_optimizer", "PIL", "skimage", "hypothesis", "beartype"):
    sys.modules[name] = None  # neither is needed to restore
warnings.simplefilter("error")
import refusion
from refusion import cli
assert "torch" in sys.modules and "refusion.train" not in sys.modules
from refusion.recipe import load_yaml
fresh = load_yaml("tiny.yaml").build()  # its weights ask for gradients
fresh(refusion.read("in/a.png"))
sys.argv[0] = "refusion"
for words in (["info", "forged.safetensors"], sys.argv[1:]):
    sys.argv[1:] = words
    try:
        cli.main()
    except SystemExit as end:
        print("status", end.code)
"""


def test_a_process_without_extras_restores(model: Path) -> None:
    """And without the tests' hook, which turns some faults into errors that the package expects."""
    from safetensors.torch import load_file, save_file

    photo("in/a.png")
    Path("in/bad.png").write_bytes(b"bad")
    Path("tiny.yaml").write_text(yaml.safe_dump(TINY))
    save_file(load_file(model), "forged.safetensors", {"refusion": '{"format": 1, "recipe": [], "card": {}}'})
    command = [sys.executable, "-c", ALONE, "restore", "in", "--model", str(model), "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout == "status 1\nrestored 1 of 2 to restored; 1 failed\nstatus 1\n", done.stderr
    forged, bad = done.stderr.splitlines()
    assert forged.startswith("refusion: forged.safetensors: ")
    assert "bad.png is not a picture" in bad
    assert Path("restored/a.png").exists()


def test_the_module_is_the_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "refusion", "restore", "none.png"], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (1, "restored 0 of 1 to restored; 1 failed\n")
    assert done.stderr == "refusion: none.png does not exist: check its name and folder\n"
