"""The picture of the model card: training losses of the embedded models, from what their training wrote.

python -m tests.benchmarks.shapes_losses --work runs/shapes --out core/shapes/losses.png
"""

import argparse
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

PANELS = {
    "sd": "shapes-sd",
    "sd3": "shapes-sd3",
    "vae": "autoencoder of both",
    "segmenter": "shapes-segmenter",
    "clip": "shapes-clip",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/shapes"), help="checkpoints and losses of the training")
    parser.add_argument("--out", type=Path, default=Path("core/shapes/losses.png"))
    options = parser.parse_args()
    figure, axes = plt.subplots(1, len(PANELS), figsize=(3.2 * len(PANELS), 2.8), layout="constrained")
    for axis, (folder, title) in zip(axes, PANELS.items(), strict=True):
        rows = [json.loads(line) for line in (options.work / folder / "losses.jsonl").read_text().splitlines()]
        names = [name for name in rows[-1] if name not in ("step", "grad_norm")]
        for name in names:
            steps = [row["step"] for row in rows]
            axis.plot(steps, [row.get(name, np.nan) for row in rows], label=name, linewidth=1)
        axis.set(title=title, xlabel="optimiser step", yscale="log")
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize=8)
    axes[0].set_ylabel("training loss")
    figure.savefig(options.out, dpi=110)
    print(f"{options.out} written")


if __name__ == "__main__":
    main()
