"""The runs of one search in an MLflow store: found by their tags or made, never made twice."""

import json
import logging
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keystep.search.storing.secrets import masked
from keystep.search.tracking.runs_view import KIND_TAG, experiment_tags
from keystep.search.tracking.sqlite_store import make_ready

if TYPE_CHECKING:
    from mlflow.entities import Experiment, Run

LOG = logging.getLogger(__name__)
PARENT = "parent"
SEARCH_TAG, SLOT_TAG, ATTEMPT_TAG = "keystep.search_id", "keystep.slot", "keystep.attempt"
PARENT_TAG = "mlflow.parentRunId"
TOLD_TAG = "keystep.told"
"""When the store was last asked whether it takes anything, milliseconds since 1970."""
DELETED = "deleted"
MAX_TAG, MAX_NOTE = 4000, 7500  # MLflow refuses longer values than 5000 and 8000 characters


class MlflowStore:
    """Runs by slot (`parent`, `baseline`, `0`, `1`, ...) in one experiment. Every call may be made again.

    Methods raise what MLflow raises when the store cannot be reached. Of a database in a file, see
    `keystep.search.tracking.sqlite_store`.

    Args:
        uri: of the store or server.
        experiment: name; made if it is missing, restored if it was deleted.
        artifact_location: where a new experiment keeps files; None is the store's choice.
    """

    def __init__(self, uri: str, experiment: str, artifact_location: str | None = None):
        from mlflow import MlflowClient

        make_ready(uri)
        self.client = MlflowClient(tracking_uri=uri)
        self.experiment_id = self._experiment(experiment, artifact_location)
        self._runs: dict[str, str] = {}
        self._known_steps: dict[str, set[int]] | None = None

    def open_parent(self, search_id: str, attempt: str, fresh: bool, name: str, time_ms: int) -> bool:
        """Find the search's run, or make it: by attempt; else, unless `fresh`, the newest of the search.

        The attempt's own run is restored with its children if it was deleted. A run taken over without the journal
        that wrote it is asked which steps it has, so that none doubles. Whether the run was made.
        """
        made = False
        found = self._search(f"tags.`{SEARCH_TAG}` = '{search_id}' and tags.`{ATTEMPT_TAG}` != ''")
        ours = [run for run in found if run.data.tags.get(ATTEMPT_TAG) == attempt]
        there = [run for run in found if run.info.lifecycle_stage != DELETED]
        restored = False
        if ours:
            self._runs[PARENT] = ours[0].info.run_id
            restored = self._restored(ours[0])
        elif there and not fresh:
            self._runs[PARENT] = there[-1].info.run_id
            self._known_steps = {}
        else:
            tags = {SEARCH_TAG: search_id, ATTEMPT_TAG: attempt}
            self._runs[PARENT] = self._create(name, tags, time_ms)
            made = True
        for run in self._search(f"tags.`{PARENT_TAG}` = '{self._runs[PARENT]}'"):
            if restored:
                self._restored(run)
            if run.info.lifecycle_stage != DELETED or restored:
                self._runs.setdefault(run.data.tags.get(SLOT_TAG, ""), run.info.run_id)
        return made

    def open_child(self, slot: str, search_id: str, name: str, time_ms: int) -> None:
        """Find the slot's run, restored if it was deleted, or make it."""
        if slot not in self._runs:
            tags = {SEARCH_TAG: search_id, SLOT_TAG: slot, PARENT_TAG: self._runs[PARENT]}
            conditions = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
            found = self._search(conditions)
            if found:
                self._restored(found[0])
            self._runs[slot] = found[0].info.run_id if found else self._create(name, tags, time_ms)

    def takes(self) -> bool:
        """Whether the store takes something of the search just now."""
        from mlflow.exceptions import MlflowException

        try:
            self.client.set_tag(self._runs[PARENT], TOLD_TAG, str(time.time_ns() // 1_000_000))
        except MlflowException:
            return False
        return True

    def mend(self, slots: Iterable[str]) -> bool:
        """Restores the experiment and the runs of slots, as far as they were deleted; whether any was.

        Raises:
            LookupError: one of them is gone for good.
        """
        from mlflow.exceptions import MlflowException

        mended = False
        try:
            experiment = self.client.get_experiment(self.experiment_id)
            if experiment.lifecycle_stage == DELETED:
                self._restore_experiment(experiment)
                mended = True
            for run_id in [self._runs[slot] for slot in slots if slot in self._runs]:
                mended |= self._restored(self.client.get_run(run_id))
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                raise LookupError(str(error)) from error
            raise
        return mended

    def run_id(self, slot: str) -> str:
        """Of an opened run."""
        return self._runs[slot]

    def log(
        self,
        slot: str,
        time_ms: int,
        *,
        metrics: Mapping[str, float] | None = None,
        step: int = 0,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, Any] | None = None,
    ) -> None:
        """Metrics at one step, parameters and tags of a run, in one request; secrets are masked."""
        from mlflow.entities import Metric, Param, RunTag

        numbers = dict(metrics or {})
        if numbers and step in self._steps(slot, next(iter(numbers))):
            numbers = {}
        texts = masked({key: str(value) for key, value in (tags or {}).items() if value is not None})
        self.client.log_batch(
            self._runs[slot],
            metrics=[Metric(key, _rounded(value), time_ms, step) for key, value in numbers.items()],
            params=[Param(key, str(masked(value))[:MAX_TAG]) for key, value in (params or {}).items()],
            tags=[RunTag(key, shortened(value, _longest(key))) for key, value in texts.items()],
        )

    def curve(self, slot: str, time_ms: int, key: str, values: Mapping[int, float]) -> None:
        """One metric at many steps."""
        from mlflow.entities import Metric

        known = self._steps(slot, key)
        metrics = [Metric(key, _rounded(value), time_ms, step) for step, value in values.items() if step not in known]
        for first in range(0, len(metrics), 500):
            self.client.log_batch(self._runs[slot], metrics=metrics[first : first + 500])

    def reopen(self, slot: str) -> None:
        """The run goes on."""
        self.client.update_run(self._runs[slot], status="RUNNING")

    def end(self, slot: str, status: str, time_ms: int) -> None:
        """The run ended then, as FINISHED, KILLED or FAILED."""
        self.client.set_terminated(self._runs[slot], status=status, end_time=time_ms)

    def unfinished(self) -> list[str]:
        """Slots whose runs the store holds for running, the parent's left out."""
        slots = {run_id: slot for slot, run_id in self._runs.items()}
        found = self._search(f"tags.`{PARENT_TAG}` = '{self._runs[PARENT]}' and attributes.status = 'RUNNING'")
        there = [run for run in found if run.info.lifecycle_stage != DELETED]
        return [slots[run.info.run_id] for run in there if run.info.run_id in slots]

    def text(self, slot: str, name: str, content: str) -> None:
        """A text file of the run, in place of an older one of that name; secrets are masked."""
        self.client.log_text(self._runs[slot], masked(content), name)

    def table(self, slot: str, name: str, table: Mapping[str, Any]) -> None:
        """A table that `mlflow.load_table` reads and MLflow's Evaluation tab shows."""
        self.text(slot, name, json.dumps(table, ensure_ascii=False))
        shown = json.dumps([{"path": name, "type": "table"}])
        self.client.set_tag(self._runs[slot], "mlflow.loggedArtifacts", shown)

    def file(self, slot: str, path: Path, folder: str | None) -> None:
        """A file of the run, in place of an older one of that name; nothing if it is gone."""
        if not path.exists():
            LOG.warning("%s is gone, so it is not logged", path)
            return
        self.client.log_artifact(self._runs[slot], str(path), folder)

    def image(self, slot: str, key: str, step: int, path: Path) -> None:
        """A picture under `key`, one of those that MLflow's slider steps through; nothing if it is there."""
        from PIL import Image

        if not path.exists():
            LOG.warning("%s is gone, so it is not logged", path)
            return
        start = f"images/{key.replace('/', '~')}+step+{step}+"
        there = [file.path for file in self.client.list_artifacts(self._runs[slot], "images")]
        if not any(name.startswith(start) and name.endswith(".webp") for name in there):
            with Image.open(path) as picture:
                self.client.log_image(self._runs[slot], picture.convert("RGB"), key=key, step=step)

    def datasets(self, slot: str, sets: Mapping[str, Any], context: str) -> None:
        """Prompt sets as the run's inputs; the same set again is the same input."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = []
        for name, prompts in sets.items():
            columns = [{"name": column, "type": "string", "required": True} for column in ("prompt", "entities")]
            dataset = Dataset(
                name=name,
                digest=prompts.hash[:12],
                source_type="code",
                source=json.dumps({"tags": {"keystep.prompt_set": name, "sha256": prompts.hash}}),
                schema=json.dumps({"mlflow_colspec": columns}),
                profile=json.dumps({"num_rows": len(prompts)}),
            )
            inputs.append(DatasetInput(dataset, [InputTag("mlflow.data.context", context)]))
        self.client.log_inputs(self._runs[slot], datasets=inputs)

    def _steps(self, slot: str, key: str) -> set[int]:
        """The steps that a run taken over has of a metric; none for runs of our own."""
        if self._known_steps is None:
            return set()
        place = f"{slot}/{key}"
        if place not in self._known_steps:
            history = self.client.get_metric_history(self._runs[slot], key)
            self._known_steps[place] = {metric.step for metric in history}
        return self._known_steps[place]

    def _experiment(self, name: str, artifact_location: str | None) -> str:
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(name)
        if found is None:
            try:
                return self.client.create_experiment(name, artifact_location, experiment_tags())
            except MlflowException as error:  # another search made it in the meantime
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = self.client.get_experiment_by_name(name)
                assert found is not None
        if found.lifecycle_stage == DELETED:
            self._restore_experiment(found)
        if KIND_TAG not in found.tags:  # made by hand, or by `mlflow experiments create`
            for key, value in experiment_tags().items():
                if key not in found.tags:
                    self.client.set_experiment_tag(found.experiment_id, key, value)
        return found.experiment_id

    def _restore_experiment(self, experiment: "Experiment") -> None:
        self.client.restore_experiment(experiment.experiment_id)
        LOG.warning("MLflow's experiment %r was deleted while its search goes on: it is restored", experiment.name)

    def _restored(self, run: "Run") -> bool:
        """Restores a run if it was deleted; whether it was."""
        if run.info.lifecycle_stage != DELETED:
            return False
        self.client.restore_run(run.info.run_id)
        LOG.warning("MLflow's run %r was deleted while its search goes on: it is restored", run.info.run_name)
        return True

    def _create(self, name: str, tags: Mapping[str, str], time_ms: int) -> str:
        own = {"mlflow.source.name": "keystep search", "mlflow.source.type": "LOCAL"}
        run = self.client.create_run(self.experiment_id, start_time=time_ms, tags={**tags, **own}, run_name=name)
        return run.info.run_id

    def _search(self, conditions: str) -> "list[Run]":
        """All runs that meet the conditions, deleted ones too, the oldest first."""
        from mlflow.entities import ViewType

        found, token = [], None
        while True:
            page = self.client.search_runs(
                [self.experiment_id], conditions, ViewType.ALL, order_by=["attributes.start_time ASC"], page_token=token
            )
            found += page
            token = page.token
            if not token:
                return found


def shortened(text: str, longest: int) -> str:
    """The text, its middle left out if it is too long: an error's beginning and end say most."""
    if len(text) <= longest:
        return text
    half = (longest - 5) // 2
    return f"{text[:half]}\n...\n{text[-half:]}"


def _longest(key: str) -> int:
    return MAX_NOTE if key == "mlflow.note.content" else MAX_TAG


def _rounded(value: float) -> float:
    """So that a column of the interface shows a whole share and not `0.35416666...`."""
    return round(float(value), 6)
