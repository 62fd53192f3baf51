"""A search of 18 settings over 32 instances in 4 blocks, evaluated by the stand-in: a batch is a block.

Run as a script, it is a driver.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from keystep.search.settings.ledger import TrialRecord
from keystep.search.settings.space import Space
from keystep.search.spec.instances import Part, make_parts
from keystep.search.spec.search_spec import SearchSpec
from keystep.search.stages.tuning import run_trials, start_ray
from keystep.search.work.pool import WorkerPool
from tests.search.stand_in import PLAY, outcome, setting_key, store_of

ROOT = Path(__file__).parents[2]
TIMESTEPS = tuple(float(timestep) for timestep in range(900, 0, -100))


def make_spec(storage: Path, **sections: Any) -> SearchSpec:
    """The search; `sections` override entries of the spec's sections."""
    plain: dict[str, Any] = {
        "name": "stand-in",
        "model": {"id": "stand-in"},
        "sampler": {
            "scheduler": "DDIMScheduler",
            "num_inference_steps": len(TIMESTEPS),
            "guidance_scale": 5.0,
            "height": 64,
            "width": 64,
        },
        "prompts": {
            "sets": ["shapes_two", "shapes_two_colored"],
            "validation": 16,
            "held_out": 2,
            "seeds": [0],
            "held_out_seeds": [0],
        },
        "space": {"gsng": ["off", "on"]},
        "search": {"trials": 12, "min_prompts": 4, "block_prompts": 4, "lookahead": 3},
        "resources": {"cpus": 0.25, "workers": 2, "batch_size": 8},
        "storage": {"path": str(storage)},
    }
    for name, section in sections.items():
        plain[name] = plain.get(name, {}) | section
    return SearchSpec.from_plain(plain, "test")


def surroundings(spec: SearchSpec) -> tuple[Space, Part, dict[int, float]]:
    """The space, the validation part, and the baseline's outcomes."""
    part, _ = make_parts(spec)
    return Space(spec, TIMESTEPS), part, {i.number: outcome(None, i.number) for i in part.instances}


EVALUATOR = "tests.search.stand_in:StandIn"


def stage_play(spec: SearchSpec, part: Part, **play: Any) -> None:
    """Tells the stand-in how to behave; `play` as it takes it."""
    store = store_of(spec)
    store.mkdir(parents=True, exist_ok=True)
    blocks = [[instance.number for instance in block] for block in part.blocks]
    (store / PLAY).write_text(json.dumps(play | {"blocks": blocks, "slots": _slots(spec)}))


def run(spec: SearchSpec, callbacks: Any = (), on_end: Any = None, **play: Any) -> list[TrialRecord]:
    """`run_trials` with the stand-in, on workers that the play tells how to behave."""
    space, part, baseline = surroundings(spec)
    stage_play(spec, part, **play)
    start_ray()
    with WorkerPool(spec, evaluator=EVALUATOR) as pool:
        return run_trials(spec, space, part, baseline, pool=pool, callbacks=callbacks, on_end=on_end)


def _slots(spec: SearchSpec) -> dict[str, int]:
    """Setting's key to its slot, found by hand: it does not depend on workers and timing."""
    from tests.search.by_hand import drive

    with tempfile.TemporaryDirectory() as folder:
        elsewhere = spec.storage.model_copy(update={"path": folder})
        records = drive(spec.model_copy(update={"storage": elsewhere}))
    return {setting_key(record.refinement.model_dump(mode="json")): record.slot for record in records}


def logged(spec: SearchSpec, what: str) -> list[tuple[int, int]]:
    """(slot, block) of every block whose computing did `begin`, or was `done`, in order."""
    return [(int(slot), int(block)) for word, slot, block, *_ in _lines(spec) if word == what]


def worked(spec: SearchSpec) -> dict[int, set[int]]:
    """Worker process to the slots that it has computed blocks of."""
    slots: dict[int, set[int]] = {}
    for _, slot, _, worker, *_ in _lines(spec):
        slots.setdefault(int(worker), set()).add(int(slot))
    return slots


def study_folder(spec: SearchSpec) -> Path:
    return Path(spec.storage.path) / "searches" / spec.search_id


def told(spec: SearchSpec) -> dict[int, list[int]]:
    """Trial to the states that it was told, each time that it was, from the journal itself."""
    states: dict[int, list[int]] = {}
    text = (study_folder(spec) / "study.log").read_text()
    for line in text[: text.rfind("\n") + 1].splitlines():  # the last may be cut off
        log = json.loads(line)
        if log["op_code"] == 6:  # a trial's state
            states.setdefault(log["trial_id"], []).append(log["state"])
    return states


def summary(records: list[TrialRecord]) -> list[tuple[Any, ...]]:
    """All that must not depend on timing."""
    return [(r.slot, r.params, r.refinement, r.state, r.values, r.tiam, r.reason) for r in records]


def winner(records: list[TrialRecord]) -> TrialRecord:
    return max((r for r in records if r.state == "complete"), key=lambda r: (r.tiam or 0.0, -r.slot))


def start_driver(spec: SearchSpec, **play: Any) -> subprocess.Popen[str]:
    """`run` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.search.small_search", spec.model_dump_json(), json.dumps(play)],
        cwd=ROOT,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition: Any, driver: subprocess.Popen[str] | None, timeout: float = 900.0) -> None:
    """Until the condition holds; an AssertionError if it does not in time, or the driver ends before."""
    until = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < until, "nothing happened"
        assert driver is None or driver.poll() is None, driver and driver.communicate()
        time.sleep(0.05)


def _lines(spec: SearchSpec) -> list[list[str]]:
    log = store_of(spec) / "log"
    return [line.split() for line in log.read_text().splitlines()] if log.exists() else []


if __name__ == "__main__":
    done = run(SearchSpec.from_plain(json.loads(sys.argv[1]), "argv"), **json.loads(sys.argv[2]))
    print(f"ended with {len(done)} trials")
