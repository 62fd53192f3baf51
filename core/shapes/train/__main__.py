"""Command line of the training scripts."""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from keystep.core.shapes.models import WEIGHTS
from keystep.core.shapes.train.data import load_training_set
from keystep.core.shapes.train.loop import Plan

MODELS = ("vae", "segmenter", "clip", "sd", "sd3")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m keystep.core.shapes.train",
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
    parser.add_argument(
        "--steps", type=int, help="optimiser steps in all; may change on resuming (default: the plan's)"
    )
    parser.add_argument("--compile", action="store_true", help="sd, sd3: compile blocks (needs a C++ compiler)")
    arguments = parser.parse_args()

    def plan(default: Plan) -> Plan:
        return replace(default, steps=arguments.steps or default.steps)

    torch.set_num_threads(arguments.threads)
    data = load_training_set(arguments.work, arguments.scenes, arguments.seed)
    folder = arguments.work / arguments.model
    vae = arguments.work / "vae" / "trained"
    if arguments.model == "vae":
        from keystep.core.shapes.train.vae import PLAN, train_vae

        train_vae(data, folder, vae, arguments.seed, plan(PLAN))
    elif arguments.model == "segmenter":
        from keystep.core.shapes.train.segmenter import PLAN, train_segmenter

        train_segmenter(data, folder, arguments.output / "shapes-segmenter", arguments.seed, plan(PLAN))
    elif arguments.model == "clip":
        from keystep.core.shapes.train.clip import PLAN, train_clip

        train_clip(data, folder, arguments.output / "shapes-clip", arguments.seed, plan(PLAN))
    else:
        from keystep.core.shapes.train.diffusion import PLANS, train_pipeline

        name = f"shapes-{arguments.model}"
        train_pipeline(
            name,
            data,
            folder,
            vae,
            arguments.output / name,
            arguments.seed,
            plan(PLANS[name]),
            compiled=arguments.compile,
        )


if __name__ == "__main__":
    main()
