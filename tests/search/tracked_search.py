"""A search in miniature for the tests of tracking: outcomes by arithmetic; and what MLflow then has of it."""

import json
import time
from pathlib import Path

from keystep.core.config import GSNg, IterRef, Refinement
from keystep.search.choice.result import Chosen
from keystep.search.choice.selection import Candidate, Measured, select, verdict
from keystep.search.settings.ledger import TrialRecord
from keystep.search.settings.space import Space
from keystep.search.spec.instances import make_parts
from keystep.search.spec.search_spec import SearchSpec
from keystep.search.tracking.tracker import Tracker

TIMESTEPS = tuple(float(t) for t in range(901, 0, -100))
NUM_TRIALS = 5


def make_spec(folder: Path, uri: str, **tracking) -> SearchSpec:
    """Two prompt sets of three validation and two held-out prompts, two seeds each, blocks of one prompt a set."""
    return SearchSpec.from_plain(
        {
            "name": "mini",
            "model": {"id": "keystep/shapes-sd"},
            "sampler": {
                "scheduler": "DDPMScheduler",
                "num_inference_steps": 10,
                "guidance_scale": 5.0,
                "height": 64,
                "width": 64,
            },
            "prompts": {
                "sets": ["shapes_two", "shapes_two_colored"],
                "validation": 3,
                "held_out": 2,
                "seeds": [0, 1],
                "held_out_seeds": [7],
            },
            "space": {"iterations": [10, 11, 12, 13, 14], "gsng": ["off", "on"]},
            "search": {"trials": NUM_TRIALS, "block_prompts": 1},
            "storage": {"path": str(folder / "runs")},
            "tracking": {"uri": uri, **tracking},
        },
        "the test",
    )


def setting(slot: int) -> Refinement:
    """Slot n refines step n, every other one with GSNg."""
    return Refinement(iterref=IterRef(step_index=slot, iterations=10 + slot), gsng=GSNg() if slot % 2 else None)


def outcome(slot: int, number: int) -> float:
    """0 or 1; later slots are better."""
    return float((number * 7 + 3) % 11 < 3 + slot)


class MiniSearch:
    """Tells a tracker what a search of NUM_TRIALS trials does. Trial 1 is pruned after a block, trial 2 fails.

    `steps` are calls in order, so that a test may stop anywhere and go on.
    """

    def __init__(self, spec: SearchSpec, folder: Path):
        self.tracker = Tracker(spec, folder)
        self.validation, self.held_out = make_parts(spec)
        self.space = Space(spec, TIMESTEPS)
        self.pause = 0.0

    def start(self, **options) -> "MiniSearch":
        self.tracker.start(self.validation, self.held_out, TIMESTEPS, **options)
        return self

    def blocks(self, slot: int) -> list[dict[int, float]]:
        """Outcomes of the blocks that the trial runs."""
        every = [{i.number: outcome(slot, i.number) for i in block} for block in self.validation.blocks]
        return every[: {1: 1, 2: 2}.get(slot, len(every))]

    def record(self, slot: int) -> TrialRecord:
        values = {number: value for block in self.blocks(slot) for number, value in block.items()}
        state = {1: "pruned", 2: "failed"}.get(slot, "complete")
        reason = {
            1: "worse than trial 0: 0.250 against 0.500 on 2 prompts, p = 0.031",
            2: "ValueError: no weights at postgresql://me:hunter2@host/db",
        }.get(slot, "")
        return TrialRecord(
            slot,
            setting(slot),
            self.space.params(setting(slot)),
            state,
            values,
            reason=reason,
            evaluations=10.0 * len(values),
            evaluations_alone=40.0 * len(values),
            seconds=2.0 * len(values),
        )

    def steps(self):
        """Every call of a search, as functions without arguments, in order."""
        tracker = self.tracker
        values = {i.number: outcome(0, i.number) for i in self.validation.instances}
        yield lambda: tracker.baseline(values, evaluations=100, evaluations_alone=100, seconds=5)
        for slot in range(NUM_TRIALS):
            yield lambda slot=slot: tracker.trial_started(slot, setting(slot))
            seen = 0
            for block in self.blocks(slot):
                seen += len(block)
                yield lambda slot=slot, block=block, seen=seen: tracker.block(slot, setting(slot), block, seen)
            yield lambda slot=slot: tracker.trial_ended(self.record(slot))
        yield self.conclude

    def conclude(self) -> None:
        complete = [self.record(slot) for slot in range(NUM_TRIALS) if self.record(slot).state == "complete"]
        baseline = {i.number: outcome(0, i.number) for i in self.validation.instances}
        candidates = [Candidate(record.refinement, record.values, 30.0) for record in complete]
        choice = select(baseline, candidates, self.validation)
        numbers = [i.number for i in self.held_out.instances]
        held_out = verdict(
            self.held_out,
            Measured(None, {number: float(number % 2) for number in numbers}, 0.5, 20.0),
            Measured(choice.winner.refinement, dict.fromkeys(numbers, 1.0), 0.9, 30.0),
        )
        self.tracker.conclude(Chosen.of(choice), held_out, "keystep export mini --out step_config.json")

    def run(self, first: int = 0, last: int | None = None) -> "MiniSearch":
        """Make the calls number `first` up to, not including, `last`."""
        for step in list(self.steps())[first:last]:
            step()
            time.sleep(self.pause)
        return self

    def expected_histories(self) -> dict[str, list[int]]:
        """Slot to the steps at which its run must have `tiam`, each once."""
        found = {"baseline": [len(self.validation.instances)]}
        for slot in range(NUM_TRIALS):
            sizes = [len(block) for block in self.blocks(slot)]
            found[str(slot)] = [sum(sizes[: place + 1]) for place in range(len(sizes))]
        return found


def runs_of(client, experiment: str) -> dict[str, list]:
    """Every run of an experiment by slot; the parent is `parent`. A list, so that a double shows."""
    found: dict[str, list] = {}
    experiment_id = client.get_experiment_by_name(experiment).experiment_id
    for run in client.search_runs([experiment_id], max_results=1000):
        found.setdefault(run.data.tags.get("keystep.slot", "parent"), []).append(run)
    return found


def histories(client, runs: dict[str, list]) -> dict[str, list[int]]:
    """Slot to the steps at which its runs have `tiam`, in order."""
    return {
        slot: sorted(m.step for run in doubles for m in client.get_metric_history(run.info.run_id, "tiam"))
        for slot, doubles in runs.items()
        if slot != "parent"
    }


def load_table(client, run_id: str, name: str, folder: Path) -> list[dict]:
    """The rows of a logged table."""
    table = json.loads(Path(client.download_artifacts(run_id, name, str(folder))).read_text())
    return [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
