"""What each event of a search becomes in MLflow: a parent run for the search, a child for every setting."""

import getpass
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from keystep.core.config import GSNg, Refinement
from keystep.search.tracking.mlflow_store import PARENT, MlflowStore
from keystep.search.tracking.run_fields import (
    estimates,
    experiment_name,
    gsng_text,
    readable_params,
    short_name,
    tiam_metrics,
    trial_name,
)
from keystep.search.tracking.search_facts import SearchFacts, Tally, curve_steps
from keystep.search.tracking.spool import Event
from keystep.search.tracking.tracked_figures import draw_search, outcome_table

STATUS = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}


class TrackedRuns:
    """Applies events to a store, in order. Applying one again changes nothing.

    Args:
        store: where.
        facts: of the search.
        tally: the sums over all events up to the one applied, which its caller keeps.
    """

    def __init__(self, store: MlflowStore, facts: SearchFacts, tally: Tally):
        self._store, self._facts, self._tally = store, facts, tally
        self._search_id = facts.spec.search_id
        self._handlers: dict[str, Callable[[Event], None]] = {
            "opened": self._opened,
            "resumed": self._resumed,
            "baseline": self._baseline,
            "trial_started": self._trial_started,
            "block": self._block,
            "trial_ended": self._trial_ended,
            "cost": lambda event: None,
            "file": self._file,
            "image": self._image,
            "metrics": self._metrics,
            "concluded": self._concluded,
            "closed": self._closed,
        }

    @classmethod
    def connect(cls, uri: str, facts: SearchFacts, tally: Tally, opened: Event) -> "tuple[TrackedRuns, bool]":
        """Open the search's runs in a store, and whether they had to be made; `opened` is the journal's first event."""
        spec = facts.spec
        store = MlflowStore(uri, experiment_name(spec), spec.tracking.artifact_location)
        data = opened.data
        made = store.open_parent(spec.search_id, data["attempt"], data["fresh"], spec.name, opened.time_ms)
        return cls(store, facts, tally), made

    def takes(self) -> bool:
        """Whether the store takes anything of the search just now."""
        return self._store.takes()

    def mend(self, event: Event) -> bool:
        """Restores what an event needs and someone deleted; whether there was any.

        Raises:
            LookupError: it is gone for good.
        """
        return self._store.mend([PARENT, str(event.data.get("slot", PARENT))])

    def apply(self, event: Event) -> None:
        """Log an event. Raises what MLflow raises when the store cannot be reached or refuses it."""
        self._handlers[event.kind](event)

    def _opened(self, event: Event) -> None:
        spec, data = self._facts.spec, event.data
        parts = [part for part in (self._facts.validation, self._facts.held_out) if part is not None]
        params = {
            "model": short_name(spec.model.id),
            "scheduler": spec.sampler.scheduler,
            "num_inference_steps": spec.sampler.num_inference_steps,
            "guidance_scale": f"{spec.sampler.guidance_scale:g}",
            "prompt_sets": ", ".join(short_name(name) for name in spec.prompts.sets),
            "detector": short_name(spec.detector.id),
            "search": f"{spec.search.sampler}, {spec.search.pruner} pruner",
            "trials": spec.search.trials,
        }
        tags = {f"version.{name}": value for name, value in data["versions"].items()}
        tags |= {"mlflow.source.git.commit": data["git_commit"], "mlflow.user": _user()}
        tags["mlflow.note.content"] = f"Search `{self._search_id}` is running."
        self._store.log(PARENT, event.time_ms, params=params, tags=tags)
        for part in parts:
            self._store.datasets(PARENT, {prompts.name: prompts for prompts in part.sets}, part.name)
        self._store.text(PARENT, "spec.yaml", data["spec"])
        self._store.text(PARENT, "versions.json", json.dumps(data["versions"], indent=1))

    def _resumed(self, event: Event) -> None:
        self._store.reopen(PARENT)

    def _baseline(self, event: Event) -> None:
        data, slot = event.data, event.data["slot"]
        num_steps = len(self._facts.timesteps)
        gsng = None if data["gsng"] is None else GSNg.model_validate(data["gsng"])
        name = "baseline" if gsng is None else f"baseline gsng {gsng_text(gsng, num_steps)}"
        self._store.open_child(slot, self._search_id, name, event.time_ms)
        found = self._estimates(slot)
        params = {"step_index": "none", "timestep": "none", "gsng": gsng_text(gsng, num_steps)}
        metrics = tiam_metrics(found) | _cost(data)
        self._store.log(slot, event.time_ms, metrics=metrics, step=len(self._tally.values[slot]), params=params)
        self._store.end(slot, "FINISHED", event.time_ms)
        if gsng is None:
            self._store.log(PARENT, event.time_ms, metrics={"baseline_tiam": found[""].mean})
        self._outcomes(slot)

    def _trial_started(self, event: Event) -> None:
        slot = self._child(event)
        params = readable_params(Refinement.model_validate(event.data["refinement"]), self._facts.timesteps)
        self._store.log(slot, event.time_ms, params=params)
        self._store.reopen(slot)

    def _block(self, event: Event) -> None:
        slot = self._child(event)
        metrics = tiam_metrics(self._estimates(slot))
        self._store.log(slot, event.time_ms, metrics=metrics, step=len(self._tally.values[slot]))

    def _trial_ended(self, event: Event) -> None:
        self._progress(event)
        slot, data, seen = self._child(event), event.data, self._tally.values[str(event.data["slot"])]
        params = readable_params(Refinement.model_validate(data["refinement"]), self._facts.timesteps)
        kind, reason = STATUS[data["state"]], data["reason"]
        tags = {"keystep.state": data["state"], "keystep.reason": reason or None, "keystep.p": data["p_value"]}
        if data["state"] != "complete":
            total = len(self._facts.validation.instances)
            word = "Pruned" if data["state"] == "pruned" else "Failed"
            tags["mlflow.note.content"] = f"{word} after {len(seen)} of {total} instances: {reason}"
        if data["state"] == "failed":
            tags["keystep.error"] = reason
        self._store.log(slot, event.time_ms, metrics=_cost(data), step=len(seen), params=params, tags=tags)
        self._store.end(slot, kind, event.time_ms)
        if seen:
            self._outcomes(slot)

    def _progress(self, event: Event) -> None:
        """The parent after a trial ended; step = trials ended."""
        best, ended = self._tally.best(), len(self._tally.ended)
        metrics = {"cost/evaluations_saved": self._tally.costs.evaluations_saved}
        if best:
            metrics = {"best_tiam": best[-1].mean} | metrics
        self._store.log(PARENT, event.time_ms, metrics=metrics, step=ended)

    def _file(self, event: Event) -> None:
        self._store.file(PARENT, Path(event.data["path"]), event.data["folder"])

    def _image(self, event: Event) -> None:
        self._store.image(PARENT, event.data["key"], event.data["step"], Path(event.data["path"]))

    def _metrics(self, event: Event) -> None:
        models = {f"keystep.metrics.{kind}": model["name"] for kind, model in event.data["models"].items()}
        self._store.log(PARENT, event.time_ms, metrics=event.data["metrics"], tags=models)

    def _concluded(self, event: Event) -> None:
        data, tally = event.data, self._tally
        points = tally.curve()
        steps = curve_steps(points)
        for key, gsng in (("tiam_by_timestep", False), ("tiam_by_timestep_gsng", True)):
            series = {steps[p.step_index]: p.estimate.mean for p in points if p.gsng == gsng and p.complete}
            self._store.curve(PARENT, event.time_ms, key, series)
        metrics = tally.costs.metrics() | data["metrics"]
        saved = {"cost/evaluations_saved": metrics.pop("cost/evaluations_saved")}
        tags = {"mlflow.note.content": data["note"], **data["tags"]}
        self._store.log(PARENT, event.time_ms, metrics=metrics, tags=tags)
        self._store.log(PARENT, event.time_ms, metrics=saved, step=len(tally.ended) + 1)
        held_out = {
            name: {int(number): value for number, value in values.items()} for name, values in data["outcomes"].items()
        }
        if held_out and self._facts.held_out is not None:
            self._store.table(PARENT, "outcomes.json", outcome_table(self._facts.held_out, held_out))
        with tempfile.TemporaryDirectory() as folder:
            for path in draw_search(tally, held_out, Path(folder)):
                self._store.file(PARENT, path, "plots")

    def _closed(self, event: Event) -> None:
        for slot in self._store.unfinished():
            self._store.end(slot, "KILLED", event.time_ms)
        self._store.end(PARENT, event.data["status"], event.time_ms)

    def _child(self, event: Event) -> str:
        slot = str(event.data["slot"])
        refinement = Refinement.model_validate(event.data["refinement"])
        name = trial_name(event.data["slot"], refinement, self._facts.timesteps)
        self._store.open_child(slot, self._search_id, name, event.time_ms)
        return slot

    def _estimates(self, slot: str) -> dict[str, Any]:
        return estimates(self._facts.validation, self._tally.values[slot])

    def _outcomes(self, slot: str) -> None:
        table = outcome_table(self._facts.validation, {"tiam": self._tally.values[slot]})
        self._store.table(slot, "outcomes.json", table)


def _cost(data: Mapping[str, Any]) -> dict[str, float]:
    return {"cost/evaluations_spent": data["evaluations"], "cost/worker_seconds": data["seconds"]}


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
