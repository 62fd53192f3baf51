"""Command line of the training scripts."""

import argparse
from pathlib import Path

import torch

from core.shapes.models import WEIGHTS
from core.shapes.train.data import load_training_set

MODELS = ("vae", "segmenter", "clip", "sd", "sd3")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m core.shapes.train",
        description="Train one of the embedded models. Interrupt at any time: the same command goes on. "
        "Order: vae first (sd and sd3 need it); segmenter and clip any time.",
    )
    parser.add_argument("model", choices=MODELS)
    parser.add_argument(
        "--work", type=Path, default=Path("runs/shapes"), help="checkpoints and scenes (default: %(default)s)"
    )
    parser.add_argument(
        "--output", type=Path, default=WEIGHTS, help="where the trained model goes (default: the package)"
    )
    parser.add_argument("--scenes", type=int, default=60_000, help="scenes in the training set (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: %(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    data = load_training_set(arguments.work, arguments.scenes, arguments.seed)
    folder = arguments.work / arguments.model
    if arguments.model == "vae":
        from core.shapes.train.vae import train_vae

        train_vae(data, folder, arguments.output / "vae", arguments.seed)
    elif arguments.model == "segmenter":
        from core.shapes.train.segmenter import train_segmenter

        train_segmenter(data, folder, arguments.output / "shapes-segmenter", arguments.seed)
    elif arguments.model == "clip":
        from core.shapes.train.clip import train_clip

        train_clip(data, folder, arguments.output / "shapes-clip", arguments.seed)
    else:
        from core.shapes.train.diffusion import train_pipeline

        name = f"shapes-{arguments.model}"
        train_pipeline(name, data, folder, arguments.output / "vae", arguments.output / name, arguments.seed)


if __name__ == "__main__":
    main()
