"""The trials of a search, run by Ray Tune: Optuna's settings and pruning, the pool's workers, resumable anywhere."""

import os
import shutil
import signal
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyarrow.fs import FileType, LocalFileSystem
from ray import tune

from keystep.search.runtime.ray_runtime import start_ray
from keystep.search.settings.ask_pruner import AskPruner
from keystep.search.settings.journal import open_journal
from keystep.search.settings.ledger import TrialRecord
from keystep.search.settings.rounds import first_decision
from keystep.search.settings.space import Space
from keystep.search.settings.suggest import KeystepSearch
from keystep.search.spec.instances import Part
from keystep.search.spec.search_spec import SearchSpec
from keystep.search.spec.sections import TrackingSpec
from keystep.search.storing.places import path_within
from keystep.search.storing.storage import resolve
from keystep.search.work.pool import WorkerPool
from keystep.search.work.trial import StepTrial

WAITING = {"memory": 1.0}  # bytes that a trial asks for, which holds nothing: Ray Tune wants it to ask for something
TRIALS = "trials-"  # how the folders begin in which Ray Tune keeps its state
_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # the one that keeps quiet when told to
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # paths in a spec are relative to where the search was started
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no CSV, JSON and TensorBoard files
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # they are in the trial's record
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # Ray Tune's own state is not needed: the study has it all
}


def run_trials(
    spec: SearchSpec,
    space: Space,
    part: Part,
    baseline: Mapping[int, float],
    *,
    pool: WorkerPool,
    callbacks: Sequence[tune.Callback] = (),
    on_end: Callable[[TrialRecord], None] | None = None,
    on_known: Callable[[list[TrialRecord]], None] | None = None,
) -> list[TrialRecord]:
    """Run the trials of a search, or what is left of them, and return the records of all, by slot.

    The same call again goes on where the last one ended, however that ended, and finds the same: see
    `keystep.search.settings.suggest.KeystepSearch`. A budget (`resources.max_hours` of this call,
    `resources.max_gpu_hours` of the search) ends the asking; what runs is finished.

    Args:
        part: the instances that trials are judged on.
        baseline: instance number to outcome of the unrefined model, all instances of `part`.
        pool: whose workers make the images.
        callbacks: told by Ray Tune what its trials do; `trial.config["slot"]` says which is which.
        on_end: called with the record of each trial that ends, before the callbacks hear of it.
        on_known: called once, before any trial runs, with the records of those that earlier calls have ended.

    Raises:
        KeyboardInterrupt: Ctrl-C; what is done is kept.
        ValueError: a folder that cannot be written, a search that runs already, options a pruner does not take,
            resources that no node has; several trials failed in a row.
    """
    with open_journal(spec.storage.path, spec.search_id) as (storage, journal), _environment(), _own_handlers():
        untracked = spec.model_copy(update={"tracking": TrackingSpec(enabled=False)})  # Ray Tune writes it to a file
        search = KeystepSearch(
            untracked,
            space,
            part,
            baseline,
            storage=storage,
            journal=journal,
            on_end=on_end,
            on_begin=pool.begin,
            on_over=pool.drop,
        )
        if on_known is not None:
            on_known([record for record in search.ledger.records() if record.state != "running"])
        start_ray()
        pool.plan_trials(part, first_decision(part, spec.search.min_prompts, spec.search.pruner))
        filesystem, root = resolve(spec.storage.path)
        place, name = f"{root}/{path_within(spec.search_id)}", f"{TRIALS}{uuid.uuid4().hex[:8]}"
        if isinstance(filesystem, LocalFileSystem):  # elsewhere no lock says that no one else writes there
            _clear(Path(place))
        tuner = tune.Tuner(
            tune.with_resources(StepTrial, tune.PlacementGroupFactory([WAITING])),
            param_space={"pool": pool.name},
            tune_config=tune.TuneConfig(
                search_alg=search,
                scheduler=AskPruner(search),
                num_samples=search.limit + 1,  # the search itself says when it is over
                max_concurrent_trials=spec.search.lookahead,
                reuse_actors=True,
                trial_name_creator=lambda trial: f"slot-{trial.config['slot']}",
                trial_dirname_creator=lambda trial: f"slot-{trial.config['slot']}",
            ),
            run_config=tune.RunConfig(
                name=name,
                storage_path=place,
                storage_filesystem=filesystem,
                failure_config=tune.FailureConfig(max_failures=spec.resources.max_failures),
                callbacks=[*callbacks, _Forget()],
                verbose=0,
            ),
        )
        try:
            tuner.fit()
        finally:
            if filesystem.get_file_info(f"{place}/{name}").type != FileType.NotFound:
                filesystem.delete_dir(f"{place}/{name}")  # Ray Tune's own state
        if search.outage is not None:
            raise ValueError(
                f"trials failed one after the other, the last with\n  {search.outage}\n"
                "put that right and run the same command again: it goes on where it stopped"
            )
        if not search.finish():
            raise KeyboardInterrupt
        return search.ledger.records()


class _Forget(tune.Callback):
    """Ray Tune keeps every number and every checkpoint's result of every trial, unread by anyone, and they pile up."""

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        told = trial.run_metadata
        told.metric_analysis.clear()
        told.metric_n_steps.clear()
        told.last_result = {}
        checkpoints = told.checkpoint_manager
        told.checkpoint_manager = type(checkpoints)(checkpoint_config=checkpoints.checkpoint_config)

    on_trial_error = on_trial_complete


@contextmanager
def _environment() -> Iterator[None]:
    """Ray Tune's switches are environment variables; they are as before afterwards."""
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    os.environ.update(_ENVIRONMENT)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _own_handlers() -> Iterator[None]:
    """Ray Tune leaves its handlers of signals behind; they are as before afterwards."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _clear(folder: Path) -> None:
    """Remove what trials of killed drivers have left in a search's folder."""
    for left in folder.glob(f"{TRIALS}*"):
        shutil.rmtree(left, ignore_errors=True)
