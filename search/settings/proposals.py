"""Which setting comes next: Optuna's samplers and the grid, every setting at most once."""

import random
from collections.abc import Collection
from itertools import islice
from typing import Any

from optuna.samplers import BaseSampler, RandomSampler, TPESampler

from keystep.search.settings.history import as_of, derived_seed, last_value
from keystep.search.settings.ledger import Ledger
from keystep.search.settings.past import Past
from keystep.search.settings.space import Space
from keystep.search.spec.search_spec import SearchSettings

_ASKED_AGAIN = 10  # times, before a setting not yet tried is drawn from the grid
_DRAWN_FROM = 1000  # grid points not yet tried, at most


def make_sampler(name: str, seed: int) -> BaseSampler:
    """The Optuna sampler of that name; settings under way count as poor for TPE, so that it does not repeat them."""
    return TPESampler(seed=seed, constant_liar=True) if name == "tpe" else RandomSampler(seed=seed)


class Proposals:
    """The sequence of settings of a search: slot n's depends on slots up to n - lookahead and the seed alone."""

    def __init__(self, settings: SearchSettings, space: Space):
        self._settings, self._space = settings, space
        self._distributions = space.distributions()
        self._past = Past()
        self._taken: dict[tuple[Any, ...], int] = {}  # slot by params; one setting has one of them
        self.limit = settings.trials if space.size is None else min(settings.trials, space.size)

    def params(self, ledger: Ledger, failed: Collection[int] = ()) -> dict[str, Any] | None:
        """The setting of the next slot; None if every one has been tried."""
        slot = len(ledger)
        if slot >= self.limit:
            return None
        if self._settings.sampler == "grid":
            return next(islice(self._space.grid(), slot, None), None)
        for number in range(len(self._taken), slot):
            self._taken[self._key(ledger.trial(number).params)] = number
        taken = self._taken
        seed = derived_seed(self._settings.seed, slot)
        study = as_of(
            ledger,
            slot,
            self._settings.lookahead,
            last_value(ledger.objective),
            self._past,
            sampler=make_sampler(self._settings.sampler, seed),
            failed=failed,
        )
        for _ in range(_ASKED_AGAIN):
            params = study.ask(fixed_distributions=self._distributions).params
            if self._key(params) not in taken:
                return params
        if self._space.size is None:
            return None
        untried = (params for params in self._space.grid() if self._key(params) not in taken)
        choices = list(islice(untried, _DRAWN_FROM))
        return random.Random(seed).choice(choices) if choices else None

    def _key(self, params: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(params.get(name) for name in self._distributions)
