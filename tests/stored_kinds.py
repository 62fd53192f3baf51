"""Every kind of file that keystep stores, as the test of damage needs it: written once, read again item by item."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pyarrow as pa
import torch
from optuna.storages import JournalStorage
from optuna.trial import TrialState, create_trial
from PIL import Image
from pyarrow.fs import LocalFileSystem

from keystep.cluster.sending.launches import Launch, find_launch, launch_file
from keystep.core.config import IterRef, Refinement, SamplerConfig, StepConfig
from keystep.core.latents import LatentStore
from keystep.core.points import Point
from keystep.core.prompts import Entity, Prompt
from keystep.evaluation.detection_cache import DetectionCache, image_key
from keystep.evaluation.detections import Instance, measure
from keystep.evaluation.image_metrics import check_measurement
from keystep.evaluation.line_cache import LineCache
from keystep.evaluation.tiam import ImageScore
from keystep.evaluation.tiam_report import collect, read_tables, write_tables
from keystep.search.choice.stored_searches import load_result
from keystep.search.images.outcomes import Outcome, OutcomeStore
from keystep.search.replaying.recorded_grid import load_grid, save_grid
from keystep.search.settings.journal import LOG, ObjectJournal, forget, open_journal
from keystep.search.settings.space import Space
from keystep.search.spec.instances import make_parts
from keystep.search.storing.storage import Storage
from keystep.search.tracking.spool import Spool, event
from tests.search.found_search import spec, stored

KEY = "ab" * 32
ID = "0123456789ab"
TIMESTEPS = tuple(float(951 - 50 * step) for step in range(20))

Items = dict[Any, Any]


@dataclass(frozen=True)
class Stored:
    """A kind of stored file.

    Attributes:
        write: puts it into a folder, returns its path.
        read: what is believed of it, item by item; raises ValueError where the user has to do something.
        remedy: what such an error tells the user to do, a regular expression.
        fresh: does what the remedy says, if a test can.
    """

    write: Callable[[Path], Path]
    read: Callable[[Path], Items]
    remedy: str = ""
    fresh: Callable[[Path], Any] | None = None


def _point() -> Point:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 4, 4, 4, generator=generator)
    return Point(latents, 3, torch.stack([generator.get_state()]), "schedule", {"ets": (latents * 2,), "counter": 3})


def _write_latents(folder: Path) -> Path:
    store = LatentStore(folder)
    store.put(KEY, _point())
    return store.path(KEY)


def _read_latents(folder: Path) -> Items:
    point = LatentStore(folder).get(KEY)
    if point is None:
        return {}
    tensors, plain = point.to_tensors()
    return {name: (str(each.dtype), each.tolist()) for name, each in tensors.items()} | plain


ENTITIES = (Entity("circle", "red"), Entity("star", "blue"))


def _write_outcomes(folder: Path) -> Path:
    rows = {
        ("a red circle and a blue star", seed): Outcome(
            float(seed % 2), (True, bool(seed % 2)), (bool(seed % 2),) * 2, 34.0, 44.0, 0.25, None, ENTITIES
        )
        for seed in range(4)
    }
    OutcomeStore(str(folder), "e").write(None, rows)
    return next(folder.rglob("*.json"))


def _read_outcomes(folder: Path) -> Items:
    return {key: asdict(outcome) for key, outcome in OutcomeStore(str(folder), "e").read(None).items()}


def _tell(storage: JournalStorage, trials: int = 3) -> None:
    study = optuna.create_study(study_name="study", storage=storage, direction="maximize")
    for number in range(trials):
        study.add_trial(create_trial(state=TrialState.RUNNING, user_attrs={"refinement": {"step_index": number}}))
        storage.set_trial_intermediate_value(number, 0, float(number % 2))
        study.tell(number, number / 4)


def _write_log(folder: Path) -> Path:
    with open_journal(str(folder), ID) as (storage, _):
        _tell(storage)
    return folder / "searches" / ID / LOG


def _read_log(folder: Path) -> Items:
    with open_journal(str(folder), ID) as (storage, journal):
        storage.get_all_studies()
        return dict(enumerate(json.dumps(log, sort_keys=True) for log in journal.read_logs(0)))


def _fresh_log(folder: Path) -> None:
    forget(str(folder), ID)
    with open_journal(str(folder), ID) as (storage, _):
        _tell(storage)


def _journal(folder: Path) -> ObjectJournal:
    return ObjectJournal(Storage(str(folder), LocalFileSystem()), "study")


def _write_objects(folder: Path) -> Path:
    _tell(JournalStorage(_journal(folder)), trials=1)
    return folder / "study" / "00000001.json"


def _read_objects(folder: Path) -> Items:
    return dict(enumerate(json.dumps(log, sort_keys=True) for log in _journal(folder).read_logs(0)))


def _write_result(folder: Path) -> Path:
    stored(folder)
    return folder / "searches" / ID / "result.json"


def _write_spool(folder: Path) -> Path:
    spool = Spool(folder, "store")
    spool.append(event("opened", "opened", {"uri": "sqlite:////x/mlflow.db", "attempt": "1"}))
    for name in "abcd":
        spool.append(event(name, "block", {"slot": 1, "values": {"0": 1.0, "1": 0.0}}))
    spool.sent()
    spool.sent()
    return spool.path


def _read_spool(folder: Path) -> Items:
    spool, waiting = Spool(folder, "store"), {}
    while (happened := spool.next(0)) is not None:
        waiting[happened.id] = asdict(happened)
        spool.sent()
    return {told.id: asdict(told) for told in spool.sent_events} | waiting


def _read_cursor(folder: Path) -> Items:
    """What counts as sent: what is not is sent again, which changes nothing."""
    return {told.id: asdict(told) for told in Spool(folder, "store").sent_events}


def _write_cursor(folder: Path) -> Path:
    return _write_spool(folder).with_name("sent-store.json")


def _write_launch(folder: Path) -> Path:
    handle = {"job": "raysubmit_1234", "address": "http://10.0.0.5:8265"}
    Launch(target="ray", search_id=ID, name="sd14", storage="/shared", handle=handle, launched="2026-01-02").save()
    return launch_file(ID)


def _write_config(folder: Path) -> Path:
    sampler = SamplerConfig(scheduler="DDPMScheduler", num_inference_steps=12, guidance_scale=1.5, height=64, width=64)
    refinement = Refinement(iterref=IterRef(step_index=1, iterations=5))
    config = StepConfig(model="keystep/shapes-sd", sampler=sampler, refinement=refinement, timestep=831.0)
    return config.save(folder / "step_config.json")


def _write_grid(folder: Path) -> Path:
    prompts = {"sets": ("shapes_two",), "validation": 2, "held_out": 2, "seeds": (0,), "held_out_seeds": (1,)}
    space = {"steps": (1, 2), "iterations": (5,), "step_size": (20.0,), "cn": (1.0,), "iou": (1.0,)}
    plain = spec().model_dump(mode="json") | {"prompts": prompts}
    plain["space"] |= space
    small = type(spec()).from_plain(json.loads(json.dumps(plain)), "the grid")
    settings = [{"step_index": -1, "gsng": "off"}, *Space(small, TIMESTEPS).grid()]
    instances = [instance for part in make_parts(small) for instance in part.instances]
    rows = [
        {"setting": number, "step_index": 0, "gsng": "off", **params, "number": place, "tiam": (number + place) % 2}
        for number, params in enumerate(settings)
        for place in range(len(instances))
    ]
    save_grid(pa.Table.from_pylist(rows), small, TIMESTEPS, folder / "grid.parquet")
    return folder / "grid.parquet"


def _read_grid(folder: Path) -> Items:
    grid = load_grid(folder / "grid.parquet")
    rows = {repr(setting): grid.outcomes[row].tolist() for setting, row in grid.rows.items()}
    return rows | {"spec": grid.spec.model_dump_json(), "timesteps": grid.timesteps}


def _images() -> list[Image.Image]:
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (7, 9, 3), dtype=np.uint8)) for _ in range(3)]


def _write_detections(folder: Path) -> Path:
    cache = DetectionCache(folder, "d")
    for image in _images():
        mask = np.asarray(image.convert("L")) > 128
        cache.put(image_key(image), measure(image, [Instance("lamp", 0.7, (0.0, 0.0, 1.0, 1.0), mask)]))
    return next(folder.rglob("*.jsonl"))


def _read_detections(folder: Path) -> Items:
    cache = DetectionCache(folder, "d")
    found = {key: cache.get(key) for key in map(image_key, _images())}
    return {key: each.to_json() for key, each in found.items() if each is not None}


def _metrics(folder: Path) -> LineCache:
    return LineCache(folder, "pair", lambda line: check_measurement(line, ["clip_full"]))


def _write_metrics(folder: Path) -> Path:
    cache = _metrics(folder)
    for number in range(3):
        cache.put(f"{number:032x}", {"clip_full": 0.25 + number, "caption": "a red circle"})
    return next(folder.rglob("*.jsonl"))


def _read_metrics(folder: Path) -> Items:
    cache = _metrics(folder)
    found = {number: cache.get(f"{number:032x}") for number in range(3)}
    return {number: line for number, line in found.items() if line is not None}


def _write_tiam(folder: Path) -> Path:
    scores = {seed: ImageScore(np.array([[1, seed]], bool), np.array([[0, seed]], bool)) for seed in range(2)}
    write_tables([collect(Prompt("a red circle and a blue star", ENTITIES), scores, (0.25,))], folder)
    return next(folder.glob("tiam_score_per_prompt/*.json"))


def _read_tiam(folder: Path) -> Items:
    return dict(enumerate(read_tables(folder / "tiam_score_per_prompt")))


def _write_sums(folder: Path) -> Path:
    return _write_tiam(folder).parents[1] / "SHA256SUMS"


KINDS: Mapping[str, Stored] = {
    "latents": Stored(_write_latents, _read_latents),
    "outcomes": Stored(_write_outcomes, _read_outcomes),
    "study log": Stored(_write_log, _read_log, "--fresh", _fresh_log),
    "study in an object store": Stored(_write_objects, _read_objects, "--fresh"),
    "result.json": Stored(
        _write_result, lambda folder: load_result(ID, str(folder)).model_dump(), "run the search again"
    ),
    "events": Stored(_write_spool, _read_spool),
    "events sent": Stored(_write_cursor, _read_cursor),
    "launch": Stored(_write_launch, lambda folder: find_launch(ID).model_dump(), "launch the search again"),
    "step config": Stored(
        _write_config,
        lambda folder: StepConfig.load(folder / "step_config.json").model_dump(),
        "xport it again|has no field '",
    ),
    "recorded grid": Stored(_write_grid, _read_grid, "record it again"),
    "detections": Stored(_write_detections, _read_detections),
    "metrics": Stored(_write_metrics, _read_metrics),
    "TIAMv2's scores": Stored(_write_tiam, _read_tiam, "score the images again"),
    "their checksums": Stored(_write_sums, _read_tiam, "score the images again"),
}
