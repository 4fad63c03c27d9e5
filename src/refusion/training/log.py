"""What a run tells: a table, TensorBoard's events, validation pictures, and a progress bar."""

import warnings
from typing import Any

import numpy as np
from jaxtyping import Float
from lightning.fabric import Fabric
from lightning.fabric.loggers.csv_logs import CSVLogger
from lightning.fabric.loggers.tensorboard import TensorBoardLogger
from tqdm import tqdm

from refusion.errors import first_line
from refusion.imaging.arrays import from_array
from refusion.imaging.formats import write
from refusion.training.checkpoints import writing
from refusion.training.stage import Stage


class Log:
    """A table, TensorBoard's events and pictures in the stage's folder; only the first process writes."""

    def __init__(self, stage: Stage, first: int, fabric: Fabric) -> None:
        self.out, self.silent, self.complained = stage.out, not fabric.is_global_zero, False
        if not self.silent:
            with writing(stage.out / "log"):
                self.table = CSVLogger(stage.out, "log", f"from-step-{first}", flush_logs_every_n_steps=1)
                self.board = TensorBoardLogger(stage.out, "log", "tensorboard")

    def write(self, values: dict[str, Any], step: int) -> None:
        """Write numbers of a step.

        Raises:
            RefusionError: see `writing`.
        """
        if not self.silent:
            numbers: dict[str, Any] = {name: float(value) for name, value in values.items()}
            with writing(self.out / "log"):
                self.table.log_metrics(numbers, step)
                self.board.log_metrics(numbers, step)

    def show(self, pixels: Float[np.ndarray, "h w 3"], name: str, step: int) -> None:
        """Write a picture of a step; warn, once, if it cannot be written."""
        folder = self.out / "pictures"
        try:
            folder.mkdir(exist_ok=True)
            write(from_array(pixels), folder / f"{name}-{step}.jpg")
            self.board.experiment.add_image(name, pixels, step, dataformats="HWC")
        except Exception as error:  # whatever it is, a picture to look at is not worth the run
            if not self.complained:
                self.complained = True
                warnings.warn(f"{folder}: no picture of {name}: {first_line(error)}", stacklevel=2)

    def close(self) -> None:
        """Write what is left."""
        if not self.silent:
            self.table.finalize("success")
            self.board.finalize("success")


def progress_bar(stage: Stage, first: int, fabric: Fabric) -> "tqdm[Any]":
    """Return a bar of the stage's steps, on the first process only."""
    return tqdm(total=stage.loop.steps, initial=first, unit="it", disable=not fabric.is_global_zero)
