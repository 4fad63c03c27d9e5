"""What restoring costs: a call of the published network, pictures with every bundled model, large pictures.

    python benchmarks/restore.py [PLOT]

Each row of pictures is a fresh process that restores a random picture of an aspect of 3:2 with the model's
own steps, on all cores, and reads and writes no files: seconds by the clock and of all processors after
loading, and the peak of its memory. The size is that of the result. PLOT is a picture file of how time and
memory grow with the size. Network calls are on one thread and taken in turn; ratios are medians.
"""

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from plain import plain_network, plainly

from refusion.allocator import keep_freed_memory
from refusion.backends.runtime import with_onnx
from refusion.models.checkpoint import load, save
from refusion.models.spec import Card, ModelSpec
from refusion.nn.nafnet import ConditionalNAFNet
from refusion.nn.precision import multiplying, native_precision
from refusion.restoring.threads import use_threads

BUNDLED = Path(__file__).parents[1] / "src/refusion/models"
MODELS = sorted(path.stem for path in BUNDLED.glob("*.safetensors"))
SIZES = (1.0, 24.0)
GROWTH = (0.25, 1.0, 4.0, 12.0, 24.0, 50.0, 100.0)
ROUNDS = 7
PUBLISHED = {"name": "ConditionalNAFNet", "width": 64, "encoder": [1, 1, 1, 28], "decoder": [1, 1, 1, 1]}
Measured = tuple[float, float, float]
"""Seconds by the clock, seconds of all processors, GiB."""


def restored(model: str, megapixels: float) -> None:
    """Restore one picture and print what it took."""
    use_threads(None)
    import numpy as np

    import refusion
    from refusion.imaging.arrays import from_array

    restore = refusion.load(model, "cpu")
    height = round((megapixels * 1e6 / 1.5) ** 0.5 / restore.enlarge.factor)
    shape = (height, height * 3 // 2, 3)
    count = restore.spec.views
    views = [from_array(np.random.default_rng(0).random(shape, dtype=np.float32)) for _ in range(count)]
    options = {"condition": (0.0, 1.0, 0.5)} if restore.spec.conditions else {}
    if restore.fill:
        options["mask"] = np.zeros(shape[:2], np.float32)
        options["mask"][::50] = 1
    request = restore.request(*views, **options)
    used = resource.getrusage(resource.RUSAGE_SELF)
    began = time.perf_counter()
    restore.run(request)
    seconds = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_SELF)
    processors = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    print(seconds, processors, after.ru_maxrss / 2**20)


def measured(model: str, megapixels: float) -> Measured:
    """Measure a restoration in a fresh process."""
    command = [sys.executable, __file__, "--row", model, str(megapixels)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    seconds, processors, memory = map(float, told.split())
    return seconds, processors, memory


def network_calls() -> None:
    """Print a call of the published network at 256 x 256, ours in every precision and backend."""
    torch.set_num_threads(1)
    spec = ModelSpec.model_validate(
        {
            "network": PUBLISHED,
            "codec": {"name": "Pixels"},
            "process": {"noise_level": "50/255"},
            "prediction": "noise",
        }
    )
    with tempfile.TemporaryDirectory() as name:
        file = Path(name, "published.safetensors")
        save(file, spec.build(), spec, Card(), {})
        model = load(file, "cpu")
        network = model.network
        assert isinstance(network, ConditionalNAFNet)
        plain = plain_network(network)
        x, t = torch.rand(1, 3, 256, 256), torch.tensor([50.0])
        embedding = network.embed(t)
        calls: dict[str, Callable[[], object]] = {
            "straightforward": plainly(lambda: plain(x, x, t)),
            "float32": lambda: network(x, x, t, embedding),
        }
        native = native_precision(x.device)

        def multiplied() -> None:
            with multiplying(native, x.device):
                network(x, x, t, embedding)

        if native != "32":
            calls[native] = multiplied
        graph = with_onnx(model).network
        calls["ONNX Runtime"] = lambda: graph(x, x, t, embedding)
        with torch.inference_mode():
            times: dict[str, list[float]] = {name: [] for name in calls}
            for _ in range(ROUNDS + 1):
                for name, call in calls.items():
                    began = time.process_time()
                    call()
                    times[name].append(time.process_time() - began)
    print(
        "| call of the published network, 256 x 256, one thread | s | straightforward / this |\n|---|---|---|"
    )
    for name, values in times.items():
        ratio = statistics.median(
            a / b for a, b in zip(times["straightforward"][1:], values[1:], strict=True)
        )
        print(f"| {name} | {statistics.median(values[1:]):.3f} | {ratio:.2f} |")


def table(rows: list[tuple[str, float]]) -> list[Measured]:
    """Print the rows, and return what was measured."""
    print("\n| model | megapixels | s | s of processors | peak, GiB |\n|---|---|---|---|---|")
    results = []
    for model, megapixels in rows:
        seconds, processors, memory = result = measured(model, megapixels)
        results.append(result)
        print(f"| {model} | {megapixels:g} | {seconds:.2f} | {processors:.2f} | {memory:.2f} |", flush=True)
    return results


def plot(results: list[Measured], path: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3), layout="constrained")
    for axes, column, label in zip(figure.subplots(1, 2), (0, 2), ("seconds", "peak, GiB"), strict=True):
        axes.loglog(GROWTH, [result[column] for result in results], "o-")
        axes.set(xlabel="megapixels", ylabel=label)
        axes.grid(which="both", alpha=0.3)
    figure.suptitle("dehazing, one step")
    figure.savefig(path, dpi=110)


def main(path: str | None = None) -> None:
    network_calls()
    table([(model, size) for model in MODELS for size in SIZES])
    results = table([("dehazing", size) for size in GROWTH])
    if path:
        plot(results, path)


if __name__ == "__main__":
    keep_freed_memory()
    if sys.argv[1:2] == ["--row"]:
        restored(sys.argv[2], float(sys.argv[3]))
    else:
        main(*sys.argv[1:])
