"""What makes a decoder use the latent: the gate after a short first stage, one setting changed at a time.

    python benchmarks/gate.py RECIPE PAIRS [STEPS]

PAIRS holds train/ and val/. The table is Markdown, as in docs/latent.md.
"""

import sys
import tempfile
from pathlib import Path

import torch

from refusion.training.processes import make_fabric
from refusion.training.recipe import load_yaml
from refusion.training.stages import CodecStage, measured_gate
from refusion.training.stopping import Stop
from refusion.training.trainer import fit

PLAIN = ["model.codec.skips=null", "codec_training.skip_dropout=0"]
SETTINGS = {
    "all skips, published weights": [],
    "no replacing": ["codec_training.replacing=0"],
    "replacing weighs 4": ["codec_training.replacing=4"],
    "LQ and GT never swapped": ["codec_training.swap=0"],
    "skip dropout 0.2": ["codec_training.skip_dropout=0.2"],
    "skips at the first level only": ["model.codec.skips=1"],
    "no skips": ["model.codec.skips=0"],
    "4 latent channels": ["model.codec.latent_channels=4"],
}


def main() -> None:
    recipe, pairs = sys.argv[1:3]
    steps = sys.argv[3] if len(sys.argv) > 3 else "500"
    loop = [f"codec_training.{key}={steps}" for key in ("steps", "validate_every")]
    loop.append("codec_training.gate=-.inf")  # is measured, and stops nothing
    fabric = make_fabric(devices=1)
    rows = ["| setting | reconstruction | LQ's latent | GT's latent | gain |", "|---|---|---|---|---|"]
    for name, changes in SETTINGS.items():
        described = load_yaml(recipe, [f"data.folder={pairs}", *loop, *PLAIN, *changes])
        torch.manual_seed(described.training.seed)
        with tempfile.TemporaryDirectory() as folder:
            restorer = described.model.build()
            stage = CodecStage(restorer, described, Path(folder), {})
            fit(stage, fabric, Stop())
            stage.finish(fabric, Stop())
            gate = measured_gate(restorer.codec, described.pairs(Path(pairs) / "val"))
        numbers = (gate.reconstruction, gate.lq_latent, gate.gt_latent, gate.gain)
        rows.append("| " + " | ".join([name, *(f"{number:.2f}" for number in numbers)]) + " |")
        print(rows[-1], flush=True)
    print("\n".join(rows))


if __name__ == "__main__":
    main()
