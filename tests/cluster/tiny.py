"""The smallest whole search of the embedded model, as a spec file, and the command line that launches it."""

import os
import sys
from pathlib import Path
from typing import Any

import yaml
from click.testing import Result
from typer.testing import CliRunner

from keystep.cluster.cli import commands
from keystep.search.cli import build_app
from keystep.search.spec.loading import load_spec

ROOT = Path(__file__).parents[2]
TRIALS = 2
PLAIN: dict[str, Any] = {
    "name": "tiny",
    "model": {"id": "keystep/shapes-sd"},
    "sampler": {
        "scheduler": "DDPMScheduler",
        "num_inference_steps": 4,
        "guidance_scale": 1.5,
        "height": 64,
        "width": 64,
    },
    "prompts": {"sets": ["shapes_two"], "validation": 2, "held_out": 2, "seeds": [0], "held_out_seeds": [1]},
    "detector": {"id": "keystep/shapes-segmenter"},
    "space": {"steps": [1, 2], "iterations": [1], "step_size": [20.0], "cn": [1.0], "iou": [1.0]},
    "search": {"trials": TRIALS, "block_prompts": 2},
    "resources": {"workers": 1, "batch_size": 2},
    "tracking": {"enabled": False},
}


def spec_in(folder: Path) -> Path:
    """A spec file whose search keeps everything in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump(PLAIN | {"storage": {"path": str(folder / "runs"), "latents_gb": 0.2}}))
    return file


def search_id(folder: Path) -> str:
    return load_spec(spec_in(folder)).search_id


def keystep(*arguments: object) -> Result:
    """The command line in this process."""
    return CliRunner().invoke(build_app(commands()), [*map(str, arguments)], env={"COLUMNS": "200"})


def programs_in(folder: Path, **texts: str) -> str:
    """A PATH on which programs of these texts come first, and `keystep` and `python` are those of this checkout."""
    folder.mkdir(parents=True, exist_ok=True)
    own = "import sys; from keystep.cluster.cli import main; sys.argv[0] = 'keystep'; main()"
    command = f'PYTHONPATH="{ROOT}" exec "{sys.executable}" -W ignore -c "{own}" "$@"'
    texts = {"keystep": f"#!/bin/bash\n{command}\n", "python": f'#!/bin/bash\nexec "{sys.executable}" "$@"\n'} | texts
    for name, text in texts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"
