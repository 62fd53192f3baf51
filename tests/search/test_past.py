"""A study that looks back, against Optuna's own in memory that was filled trial by trial."""

from collections.abc import Iterator
from typing import Any

import pytest
from optuna import Study
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import Trial, TrialState

from keystep.search.settings.history import as_of, last_value
from keystep.search.settings.journal import open_journal
from keystep.search.settings.past import Past
from keystep.search.settings.pruning import PRUNERS, PruningTask
from keystep.search.settings.rounds import rounds_of
from keystep.search.settings.suggest import KeystepSearch
from tests.search.by_hand import drive
from tests.search.small_search import make_spec, surroundings

SLOT, LOOKAHEAD = 12, 3


def filled(found: Study, sampler: BaseSampler | None, pruner: Any) -> Study:
    """The same trials in a storage of Optuna's."""
    storage = InMemoryStorage()
    study_id = storage.create_new_study([StudyDirection.MAXIMIZE], found.study_name)
    for trial in found.get_trials(deepcopy=False):
        storage.create_new_trial(study_id, trial)
    return Study(found.study_name, storage, sampler=sampler, pruner=pruner)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Any]]:
    """A spec, and the ledger of its trials."""
    spec = make_spec(tmp_path_factory.mktemp("past"))
    drive(spec)
    space, part, baseline = surroundings(spec)
    with open_journal(spec.storage.path, spec.search_id) as (storage, journal):
        yield spec, KeystepSearch(spec, space, part, baseline, storage=storage, journal=journal).ledger


def test_what_is_seen_is_what_has_ended(searched: tuple[Any, Any]) -> None:
    _, ledger = searched
    past = Past()
    for slot in (7, SLOT, 9):  # a resumed search looks back from an earlier one again
        study = as_of(ledger, slot, LOOKAHEAD, last_value(ledger.objective), past)
        trials = study.get_trials()
        assert [trial.number for trial in trials] == list(range(slot))
        assert [trial._trial_id for trial in trials] == list(range(slot))
        assert {trial.state for trial in trials[slot - LOOKAHEAD + 1 :]} == {TrialState.RUNNING}
        for trial in trials[: slot - LOOKAHEAD + 1]:
            kept = ledger.trial(trial.number)
            assert (trial.state, trial.value, trial.params) == (kept.state, kept.user_attrs["tiam"], kept.params)
        for states in [(TrialState.COMPLETE,), (TrialState.WAITING,), (TrialState.PRUNED, TrialState.RUNNING)]:
            assert [t.number for t in study.get_trials(states=states)] == [
                t.number for t in trials if t.state in states
            ]


def test_a_sampler_draws_the_same(searched: tuple[Any, Any]) -> None:
    spec, ledger = searched
    distributions = surroundings(spec)[0].distributions()
    for seed in range(20):
        samplers = [TPESampler(seed=seed, constant_liar=True, n_startup_trials=2) for _ in range(2)]
        study = as_of(ledger, SLOT, LOOKAHEAD, last_value(ledger.objective), Past(), sampler=samplers[0])
        other = filled(study, samplers[1], None)
        asked = [each.ask(fixed_distributions=distributions).params for each in (study, other, study, other)]
        assert asked[0] == asked[1] and asked[2] == asked[3]


@pytest.mark.parametrize("name", [name for name in PRUNERS if name != "none"])
def test_a_pruner_decides_the_same(name: str, searched: tuple[Any, Any]) -> None:
    spec, ledger = searched
    _, part, baseline = surroundings(spec)
    options: dict[str, Any] = {
        "PatientPruner": {"patience": 1, "wrapped_pruner": "MedianPruner"},
        "PercentilePruner": {"percentile": 50.0},
        "ThresholdPruner": {"lower": 0.5},
    }.get(name, {})
    sizes = [len(block) for block in part.blocks]
    task = PruningTask(rounds_of(part), baseline, sizes, spec.search.alpha, 4, options)
    pruning = PRUNERS[name](task)
    curve = last_value(ledger.objective) if pruning.sees == "curve" else dict
    study = as_of(ledger, SLOT, LOOKAHEAD, curve, Past(), pruner=pruning.pruner)
    decided = []
    for each in (study, filled(study, None, PRUNERS[name](task).pruner)):
        trial = Trial(each, each._storage.create_new_trial(each._study_id))
        assert trial.number == SLOT
        for number in range(sum(sizes)):
            trial.report(float(number % 3 == 0), number)
            decided.append((number, trial.should_prune(), dict(each.get_trials()[SLOT].system_attrs)))
    half = len(decided) // 2
    assert decided[:half] == decided[half:]
