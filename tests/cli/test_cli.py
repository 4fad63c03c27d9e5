"""Whatever goes wrong is one line and an exit status, every command is explained, and help is quick."""

import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from terminal import TINY, described, make_pairs, one_line, photo, save_model

import refusion
from command import Run
from refusion import cli
from refusion.restoring.request import Result
from refusion.restoring.restorer import Restorer
from refusion.training.recipe import parse


@pytest.mark.slow
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
        (("train", "shadow-remval", "--dry-run"), "did you mean shadow-removal?"),
        (("doctor", "pairs", "--recipe", "denoisng"), "did you mean"),
        (("train", "{r}", "--dry-run", "--training.stps", "3"), "did you mean training.steps?"),
        (("train", "{r}", "--dry-run", "--training.steps"), "--training.steps 1000"),
        (("train", "{r}", "--dry-run", "--model.network.encoder", "[1"), "model.network.encoder"),
        (("train", "{r}", "--dry-run", "--model.process.noise_level=50"), "50/255"),
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
    monkeypatch.setattr(Restorer, "run", stop)
    one_line(run("restore", "a.png", "--model", model), "stopped", status=130)


def test_too_large_a_picture_is_one_that_failed(
    run: Run, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its neighbours are restored, whichever way the memory's end is told."""
    for i in range(3):
        photo(f"in/{i}.png", i)
    ends = iter([MemoryError("no room"), RuntimeError("DefaultCPUAllocator: can't allocate memory"), None])
    original = Restorer.run

    def limited(*args: Any) -> Result:
        if error := next(ends):
            raise error
        return original(*args)

    monkeypatch.setattr(Restorer, "run", limited)
    said = run("restore", "in", "--model", model)
    assert said.status == 1
    assert said.out == "restored 1 of 3 to restored; 2 failed\n"
    assert len(said.err.splitlines()) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "places"),
    [
        (("restore", "pairs/lq"), ("pairs/lq/0.png", "pairs/lq/1.png")),
        (("evaluate", "pairs"), ("0", "1")),
    ],
    ids=["restore", "evaluate"],
)
def test_what_is_tiled_is_said_once(
    run: Run, caplog: pytest.LogCaptureFixture, words: tuple[str, str], places: tuple[str, str]
) -> None:
    """And the package logs nothing, for programs that import it."""
    model = save_model(Path("whole.safetensors"), 0.3, parse(described(codec={"name": "Pixels"}), "test"))
    for side in ("lq", "gt"):
        for i, width in enumerate((513, 520)):
            photo(f"pairs/{side}/{i}.png", i, height=512, width=width)
    log = logging.getLogger("refusion")
    before = log.level, log.propagate, list(log.handlers)
    said = run(*words, "--model", model, "--steps", 1, "--tile", 256)
    assert said.status == 0
    lines = said.err.splitlines()
    for line, place, width in zip(lines, places, (513, 520), strict=True):
        expected = rf"refusion: {re.escape(place)}: state of {width}x512: tiles of 256, [\d.]+ GiB free"
        assert re.fullmatch(expected, line)
    assert caplog.messages == []
    assert (log.level, log.propagate, log.handlers) == before


# ---- help and typing errors


COMMANDS = {
    *("restore", "train", "evaluate", "doctor", "diffuse", "export", "import", "models", "info"),
    *("study", "calibrate", "serve"),
}


def test_every_command_and_parameter_is_explained(run: Run) -> None:
    commands = [name for name in cli.app if not name.startswith("-")]
    assert set(commands) == COMMANDS
    said = run("--help").out
    assert set(re.findall(r"^│ ([a-z]+) ", said, re.MULTILINE)) == COMMANDS
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


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_command_is_completed(shell: Literal["bash", "zsh", "fish"]) -> None:
    script = cli.app.generate_completion(prog_name="refusion", shell=shell)
    for word in (*COMMANDS, "noise-level", "hole-colour", "protocol"):
        assert word in script


def test_the_completion_goes_to_a_file_that_is_named(
    run: Run, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file of the shell itself is changed."""
    monkeypatch.setenv("HOME", str(here))
    monkeypatch.setenv("SHELL", "/bin/bash")
    said = run("--install-completion")
    (script,) = [path for path in here.rglob("*") if path.is_file()]
    assert said.status == 0
    assert "restore" in script.read_text()


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
from refusion.training.recipe import load_yaml
fresh = load_yaml("tiny.yaml").model.build()  # its weights ask for gradients
assert "torch" in sys.modules and "refusion.training.stages" not in sys.modules
fresh.run(fresh.request("in/a.png"))
sys.argv[0] = "refusion"
for words in (["info", "forged.safetensors"], sys.argv[1:]):
    sys.argv[1:] = words
    try:
        cli.main()
    except SystemExit as end:
        print("status", end.code)
"""


QUICK = """
import sys
from refusion import cli
sys.argv[0] = "refusion"
for words in ("--help", "--version", "restore --help", "evaluate --help", "train --help",
              "restroe", "restore", "restore a.png --steps three", "doctor a --shet b"):
    sys.argv[1:] = words.split()
    try:
        cli.main()
    except SystemExit as end:
        print("status", end.code)
assert not {"torch", "numpy", "pyvips", "pydantic", "yaml"} & set(sys.modules)
"""


def test_help_and_typing_errors_do_not_wait_for_torch() -> None:
    done = subprocess.run([sys.executable, "-c", QUICK], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^status \d$", done.stdout, re.MULTILINE) == ["status 0"] * 5 + ["status 2"] * 4
    assert len(done.stderr.splitlines()) == 4


@pytest.mark.slow
def test_a_process_without_extras_restores(model: Path) -> None:
    """And without the tests' hook, which turns some faults into errors that the package expects."""
    from safetensors.torch import load_file, save_file

    photo("in/a.png")
    Path("in/bad.png").write_bytes(b"bad")
    Path("tiny.yaml").write_text(yaml.safe_dump(TINY))
    save_file(load_file(model), "forged.safetensors", {"refusion": '{"format": 1, "recipe": [], "card": {}}'})
    command = [sys.executable, "-c", ALONE, "restore", "in", "--model", str(model), "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout == f"status 1\nrestored 1 of 2 to restored with {model}; 1 failed\nstatus 1\n", (
        done.stderr
    )
    forged, bad = done.stderr.splitlines()
    assert forged.startswith("refusion: forged.safetensors: ")
    assert "bad.png is not a picture" in bad
    assert Path("restored/a.png").exists()


@pytest.mark.slow
def test_the_module_is_the_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "refusion", "restore", "none.png"], capture_output=True, text=True, timeout=120
    )
    by = "shadow-removal (`refusion models` lists others)"
    assert (done.returncode, done.stdout) == (1, f"restored 0 of 1 to restored with {by}; 1 failed\n")
    assert done.stderr == "refusion: none.png does not exist: check its name and folder\n"
