"""A whole search of the embedded model in a minute, from the command line, and what it leaves behind."""

import json
import threading
from pathlib import Path
from typing import Any

import yaml
from click.testing import Result
from mlflow import MlflowClient
from typer.testing import CliRunner

from keystep.search.choice.result import SearchResult
from keystep.search.cli import build_app
from keystep.search.storing.storage import Storage
from tests.search.tracked_search import runs_of

ROOT = Path(__file__).parents[2]
STEPS = 6
TRIALS = 3
PROMPTS = 4  # of each part
CONFIRMED = 3  # settings on held-out prompts: unrefined, winner, runner-up
PLAIN: dict[str, Any] = {
    "name": "tiny",
    "model": {"id": "keystep/shapes-sd"},
    "sampler": {
        "scheduler": "DDPMScheduler",
        "num_inference_steps": STEPS,
        "guidance_scale": 1.5,
        "height": 64,
        "width": 64,
    },
    "prompts": {
        "sets": ["shapes_two"],
        "validation": PROMPTS,
        "held_out": PROMPTS,
        "seeds": [0],
        "held_out_seeds": [1],
    },
    "detector": {"id": "keystep/shapes-segmenter"},
    "space": {"steps": [1, 2, 3], "iterations": [2], "step_size": [20.0], "cn": [1.0], "iou": [1.0]},
    "search": {"trials": TRIALS, "block_prompts": 2},
    "resources": {"workers": 1, "batch_size": 2},
}
TIMES = {"seconds", "wall_seconds", "worker_seconds", "gpu_seconds", "updated", "seconds_per_image"}


def spec_in(folder: Path) -> Path:
    """A spec file whose search keeps everything in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    places = {"storage": {"path": str(folder / "runs"), "latents_gb": 0.2}, "tracking": tracked(folder)}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(PLAIN | places))
    return folder / "tiny.yaml"


def tracked(folder: Path) -> dict[str, str]:
    return {
        "uri": f"sqlite:///{folder}/mlflow.db",
        "experiment": "tiny",
        "artifact_location": str(folder / "artifacts"),
    }


def keystep_search(folder: Path, *options: str) -> Result:
    return CliRunner().invoke(build_app(), ["search", str(spec_in(folder)), *options], env={"COLUMNS": "160"})


def result_in(folder: Path) -> SearchResult:
    (file,) = (folder / "runs" / "searches").glob("*/result.json")
    return SearchResult.read(Storage(str(file.parent)))


def without_times(value: Any) -> Any:
    """Plain values of a result without what a clock says and where it was kept."""
    if isinstance(value, dict):
        return {key: without_times(inner) for key, inner in value.items() if key not in TIMES | {"storage", "tracking"}}
    return [without_times(inner) for inner in value] if isinstance(value, list) else value


def found_in(folder: Path) -> Any:
    return without_times(result_in(folder).model_dump(mode="json"))


def shards(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in (folder / "runs" / "outcomes").rglob("*.json")}


def contents(folder: Path) -> dict[Path, bytes]:
    """Every file of the search's storage; locks change whenever they are taken."""
    files = (path for path in (folder / "runs").rglob("*") if path.is_file() and path.suffix != ".lock")
    return {path: path.read_bytes() for path in files}


def rows(folder: Path) -> list[tuple[str, str, int]]:
    """Setting, prompt and seed of every outcome in every shard."""
    return sorted(
        (Path(name).parent.name, row["prompt"], row["seed"])
        for name, text in shards(folder).items()
        for row in json.loads(text)["outcomes"]
    )


def runs_in(folder: Path) -> dict[str, list[Any]]:
    """MLflow's runs by slot. Each attempt has one parent, one run of the baseline and one of each trial."""
    runs = runs_of(MlflowClient(tracking_uri=tracked(folder)["uri"]), "tiny")
    num_parents = len(runs["parent"])
    assert {slot: len(found) for slot, found in runs.items()} == dict.fromkeys(
        ["parent", "baseline", *map(str, range(TRIALS))], num_parents
    )
    assert {parent.info.status for parent in runs["parent"]} == {"FINISHED"}
    return runs


class Reader(threading.Thread):
    """Reads a search's result again and again; `seen` has every state that it was in."""

    def __init__(self, folder: Path):
        super().__init__(daemon=True)
        self.seen: list[SearchResult] = []
        self._folder, self._over = folder, threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.01):
            for file in (self._folder / "runs" / "searches").glob("*/result.json"):
                result = SearchResult.read(Storage(str(file.parent), read_only=True))
                if not self.seen or result != self.seen[-1]:
                    self.seen.append(result)

    def __enter__(self) -> "Reader":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()
