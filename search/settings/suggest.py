"""Ray Tune's way to Optuna: settings in one sequence whatever the timing, every trial told its end exactly once."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.storages import BaseStorage
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from keystep.core.config import Refinement
from keystep.search.settings.history import Watch
from keystep.search.settings.ledger import Batching, Ledger, Spent, TrialRecord
from keystep.search.settings.past import Past
from keystep.search.settings.proposals import Proposals, make_sampler
from keystep.search.settings.pruning import PRUNERS, PruningTask
from keystep.search.settings.rounds import prompt_numbers, rounds_of
from keystep.search.settings.space import Space
from keystep.search.settings.study import study_name
from keystep.search.spec.instances import Part
from keystep.search.spec.search_spec import SearchSpec
from keystep.search.storing.secrets import masked

METRIC = "tiam"
FAILED_IN_A_ROW = 3  # trials: not the setting is at fault then


class KeystepSearch(OptunaSearch):
    """An OptunaSearch that lets Optuna prune, and whose outcome does not depend on timing.

    OptunaSearch installs no pruner and tells every stopped trial as complete. Here the study has the pruner of the
    spec, and a trial is told COMPLETE with its objective over all instances, PRUNED, or FAIL with its error.

    The search is a sequence of slots; slot n is the study's trial n. Slot n is chosen when slots up to
    n - lookahead have ended, from what these tell and the seed (`keystep.search.settings.history`), and pruned by what
    these tell: more workers, retries and restarts change when something is known, never what is chosen. Trials that a
    dead run left RUNNING are taken up first, each as the trial it was.

    A failure is told once another trial has made progress or the search is over, so that a full disk or a lost
    network, on which `FAILED_IN_A_ROW` trials fail and the search stops, spoils none of them.

    Args:
        spec, space, part: the search, what it varies, the instances it is judged on.
        baseline: instance number to outcome of the unrefined model, all instances of `part`.
        storage, journal: where the study is kept, as `keystep.search.settings.journal.open_journal` gives them.
        on_end: called with the record of each trial that ends.
        on_begin: called with slot and setting of each trial that begins.
        on_over: called with the slot of each trial that needs no more work, sooner than `on_end`.

    Raises:
        ValueError: the pruner does not take its options.
    """

    def __init__(
        self,
        spec: SearchSpec,
        space: Space,
        part: Part,
        baseline: Mapping[int, float],
        *,
        storage: BaseStorage,
        journal: Batching,
        on_end: Callable[[TrialRecord], None] | None = None,
        on_begin: Callable[[int, Refinement], None] | None = None,
        on_over: Callable[[int], None] | None = None,
    ):
        self._spec, self._settings, self._part = spec, spec.search, part
        self._refinement = space.refinement
        self._prompts = prompt_numbers(part)
        self._task = PruningTask(
            rounds=rounds_of(part),
            baseline=baseline,
            block_sizes=[len(block) for block in part.blocks],
            alpha=self._settings.alpha,
            min_prompts=self._settings.min_prompts,
            options=self._settings.pruner_options,
        )
        self._on_end = on_end or (lambda record: None)
        self._on_begin = on_begin or (lambda slot, refinement: None)
        self._on_over = on_over or (lambda slot: None)
        self._trial_slots: dict[str, int] = {}
        self._watches: dict[int, Watch] = {}
        self._stopped: dict[int, str] = {}
        self._failed: dict[int, str] = {}
        self._errors: dict[str, str] = {}
        self._row: list[str] = []
        self._past = Past()
        self._all_ended = 0  # slots below have ended
        self._over = False
        self.trouble: OSError | None = None
        self._began = time.monotonic()
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # it tells of every study that looks back
        self.distributions = space.distributions()
        super().__init__(
            space=self.distributions,
            metric=METRIC,
            mode="max",
            sampler=make_sampler(self._settings.sampler, self._settings.seed),
            study_name=study_name(spec.search_id),
            storage=storage,
        )
        if self._ot_study is None:  # a space of a single setting has nothing to draw
            self._setup_study("max")
        assert self._ot_study is not None
        self._ot_study.pruner = PRUNERS[self._settings.pruner](self._task).pruner
        self.ledger = Ledger(self._ot_study, storage, journal, part.objective)
        self._seconds = sum(record.seconds for record in self.ledger.records())  # of workers, in all
        self._proposals = Proposals(self._settings, space)
        self._resumed = self.ledger.unfinished()

    @property
    def limit(self) -> int:
        """Slots at most."""
        return self._proposals.limit

    @property
    def outage(self) -> str | None:
        """The last error, if so many trials failed in a row that the search was stopped; else None."""
        return self._row[-1] if len(self._row) >= FAILED_IN_A_ROW else None

    @property
    def out_of_budget(self) -> bool:
        """Whether the time or the GPU hours of the spec are used up: no further slot begins then."""
        resources = self._spec.resources
        if resources.max_hours is not None and time.monotonic() - self._began >= resources.max_hours * 3600:
            return True
        if resources.max_gpu_hours is None:
            return False
        return self._seconds * resources.gpus >= resources.max_gpu_hours * 3600

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """False: the search brings its own metric and space."""
        return False

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The slot and its refinement, as the trainable's config; None while too little is known; or FINISHED."""
        if self.outage is not None or self.trouble is not None:
            return Searcher.FINISHED
        slot: int | str | None = Searcher.FINISHED
        with self._noting_trouble():
            slot = self._resume() if self._resumed else self._begin()
        if not isinstance(slot, int):
            return slot
        self._trial_slots[trial_id] = slot
        self._watches[slot] = Watch(
            self.ledger,
            slot,
            self._settings.lookahead,
            PRUNERS[self._settings.pruner](self._task),
            self._past,
            name=self._settings.pruner,
            last_numbers=tuple(block[-1].number for block in self._part.blocks),
            num_prompts=lambda values: sum(all(n in values for n in numbers) for numbers in self._prompts),
            min_prompts=self._settings.min_prompts,
            failed=self._failed,
        )
        refinement = self.ledger.refinement(slot)
        self._on_begin(slot, refinement)
        return {"slot": slot, "refinement": refinement.model_dump(mode="json")}

    def _resume(self) -> int | None:
        return self._resumed.pop(0) if self._may_begin(self._resumed[0]) else None

    def _may_begin(self, slot: int) -> bool:
        """Whether all that the slot looks back on have ended."""
        while self._all_ended < slot and self._has_ended(self._all_ended):
            self._all_ended += 1
        return self._all_ended > slot - self._settings.lookahead

    def _begin(self) -> int | str | None:
        slot = len(self.ledger)
        if slot >= self.limit or self.out_of_budget:
            self._over = True
            return Searcher.FINISHED
        if not self._may_begin(slot):
            return None
        params = self._proposals.params(self.ledger, self._failed)
        if params is None:
            self._over = True
            return Searcher.FINISHED
        return self.ledger.begin(params, self.distributions, self._refinement(params))

    def _has_ended(self, slot: int) -> bool:
        return slot in self._failed or self.ledger.state(slot) != "running"

    def see_block(self, trial_id: str, result: Mapping[str, Any], last: bool = False) -> bool:
        """Take in a block's result, as Ray Tune flattens it; whether the pruner stops the trial.

        Args:
            last: the trial is over; a pruned one has had its result taken in, a complete one is not asked about.
        """
        slot = self._trial_slots[trial_id]
        with self._noting_trouble():
            if self.trouble is None and slot not in self._stopped:
                self._see(slot, result, last)
        return slot in self._stopped or self.trouble is not None

    def _see(self, slot: int, result: Mapping[str, Any], last: bool) -> None:
        if result.get("again") and self.ledger.has_block(slot, result["block"]):
            return
        self._row.clear()
        self._tell_failures()
        outcomes = outcomes_of(result)
        spent = Spent(result["evaluations"], result["evaluations_alone"], result["seconds"])
        self.ledger.add_block(slot, result["block"], outcomes, spent)
        self._seconds += spent.seconds
        reason = self._watches[slot].see(outcomes, ask=not last)
        if reason is not None:
            self._stopped[slot] = reason
        if last or reason is not None:
            self._on_over(slot)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing: `keystep.search.settings.ask_pruner` hands over every result, before the decision on it."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell the study; a trial that was only interrupted is left as it is, for the next run."""
        slot = self._trial_slots[trial_id]
        if self.trouble is not None:
            return
        assert not self._has_ended(slot), f"trial {trial_id} ends twice"
        if error:
            self._on_over(slot)
            self._row.append(self._failed.setdefault(slot, self._errors.get(trial_id, "its worker died")))
            return
        with self._noting_trouble():
            if slot in self._stopped:
                self._end(slot, "pruned", self._stopped.pop(slot))
            elif len(self.ledger.trial(slot).intermediate_values) == len(self._part.instances):
                self._end(slot, "complete")

    def note_error(self, trial_id: str, error: str) -> None:
        """What a trial failed with last; its reason, if it is not tried again."""
        self._errors[trial_id] = error

    def finish(self) -> bool:
        """Tell what is left to tell, when Ray Tune is through; False if the search was stopped before its end.

        Raises:
            OSError: the study could not be written any more, which Ray Tune would have taken for a trial's failure.
        """
        if self.trouble is not None:
            raise self.trouble
        if not self._over or not all(self._has_ended(slot) for slot in range(len(self.ledger))):
            return False
        self._tell_failures()
        return True

    def __getstate__(self) -> dict[str, Any]:
        """Ray Tune keeps its searcher in a file; whom to tell of trials does not go there."""
        return self.__dict__ | {"_on_end": None, "_on_begin": None, "_on_over": None}

    def save(self, checkpoint_path: str) -> None:
        """Which slot each of Ray Tune's trials has; all else is in the study."""
        Path(checkpoint_path).write_text(json.dumps(self._trial_slots), encoding="utf-8")

    def restore(self, checkpoint_path: str) -> None:
        """Read what `save` wrote."""
        self._trial_slots = json.loads(Path(checkpoint_path).read_text(encoding="utf-8"))

    @contextmanager
    def _noting_trouble(self) -> Iterator[None]:
        """No room for the study, or no way to it: the search stops at once, and nothing more is told."""
        try:
            yield
        except OSError as error:
            self.trouble = OSError(
                error.errno,
                f"the study of the search can no longer be written ({error.strerror or error}): free some room or make "
                f"{masked(self._spec.storage.path)} writable, and run the same command again: it goes on where it "
                "stopped",
            )

    def _tell_failures(self) -> None:
        for slot in sorted(self._failed):
            self._end(slot, "failed", self._failed[slot])
        self._failed.clear()

    def _end(self, slot: int, state: Literal["complete", "pruned", "failed"], reason: str = "") -> None:
        watch = self._watches.pop(slot)
        self._on_end(self.ledger.end(slot, state, reason, {} if state == "failed" else watch.attributes))


def outcomes_of(result: Mapping[str, Any]) -> dict[int, float]:
    """The outcomes by instance number in a result: pairs, or a mapping, flattened (`outcomes/7`) or not."""
    if "outcomes" in result:
        return {int(number): float(value) for number, value in dict(result["outcomes"]).items()}
    prefix = "outcomes/"
    return {int(key[len(prefix) :]): float(value) for key, value in result.items() if key.startswith(prefix)}
