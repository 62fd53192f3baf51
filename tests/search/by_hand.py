"""Ray Tune played by hand: the searcher on a real Optuna study, events in any order, no process but this one."""

import random
from typing import Any

from ray.tune.search import Searcher

from keystep.search.settings.journal import open_journal
from keystep.search.settings.ledger import TrialRecord
from keystep.search.settings.suggest import KeystepSearch
from keystep.search.spec.instances import Part
from keystep.search.spec.search_spec import SearchSpec
from tests.search.small_search import surroundings
from tests.search.stand_in import outcome


class Stopped(Exception):
    """The driver was killed here."""


def drive(
    spec: SearchSpec, workers: int = 1, order: int = 0, fail: tuple[int, ...] = (), events: int | None = None
) -> list[TrialRecord]:
    """Play Ray Tune: `workers` trials under way, a random one of them ahead; killed after so many events."""
    space, part, baseline = surroundings(spec)
    rng = random.Random(order)
    with open_journal(spec.storage.path, spec.search_id) as (storage, journal):
        search = KeystepSearch(spec, space, part, baseline, storage=storage, journal=journal)
        running: dict[str, tuple[dict[str, Any], int]] = {}
        asked = 0
        while True:
            while len(running) < workers:
                config = search.suggest(f"trial-{order}-{asked}")
                if not isinstance(config, dict):
                    break
                running[f"trial-{order}-{asked}"] = (config, 0)
                asked += 1
            if not running:
                assert config == Searcher.FINISHED
                assert search.finish() is (search.outage is None)
                return search.ledger.records()
            if events is not None:
                events -= 1
                if events < 0:
                    raise Stopped
            trial_id = rng.choice(list(running))
            config, block = running[trial_id]
            if config["slot"] in fail:
                search.note_error(trial_id, "ZeroDivisionError: by nothing")
                search.on_trial_complete(trial_id, error=True)
                del running[trial_id]
                continue
            last = block == len(part.blocks) - 1
            stop = search.see_block(trial_id, result_of(part, config, block), last=last)
            running[trial_id] = (config, block + 1)
            if stop or last:
                search.on_trial_complete(trial_id, {"tiam": 0.0})
                del running[trial_id]


def result_of(part: Part, config: dict[str, Any], block: int) -> dict[str, Any]:
    """A block's result as Ray Tune flattens it."""
    numbers = [instance.number for instance in part.blocks[block]]
    return {
        "block": block,
        "evaluations": 10.0,
        "evaluations_alone": 30.0,
        "seconds": 0.5,
        **{f"outcomes/{number}": outcome(config["refinement"], number) for number in numbers},
    }
