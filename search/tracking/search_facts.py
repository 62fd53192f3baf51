"""What a search's tracking knows beforehand, and what it has added up from the events so far."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keystep.core.config import Refinement
from keystep.evaluation.statistics import Estimate
from keystep.search.choice.search_costs import SearchCosts, plain_evaluations
from keystep.search.reporting.plots import CurvePoint
from keystep.search.tracking.run_fields import estimates
from keystep.search.tracking.spool import Event

if TYPE_CHECKING:
    from keystep.search.spec.instances import Part
    from keystep.search.spec.search_spec import SearchSpec

PACKAGES = ("keystep", "torch", "diffusers", "transformers", "ray", "optuna", "mlflow", "numpy")
BASELINE, GSNG_ALONE = "baseline", "gsng"  # slots of what was run before the trials


@dataclass(frozen=True)
class SearchFacts:
    """A search as it was before it began.

    Attributes:
        spec: as given; it may hold secrets in its addresses, so only masked parts of it are sent.
        validation, held_out: the parts; `held_out` None where there is none.
        timesteps: of the schedule, the noisiest first.
    """

    spec: "SearchSpec"
    validation: "Part"
    held_out: "Part | None"
    timesteps: tuple[float, ...]


@dataclass
class Ended:
    """A trial that ended: its setting, how, and what it saw."""

    slot: int
    refinement: Refinement
    params: dict[str, Any]
    state: str
    values: dict[int, float]
    estimate: Estimate | None

    @property
    def complete(self) -> bool:
        """Whether it saw all instances."""
        return self.state == "complete"


@dataclass
class Tally:
    """The sum of the events up to now: the same whether they were sent just now or by an earlier process.

    Attributes:
        values: outcomes by instance number, by slot (`baseline` and `gsng` are slots too).
        ended: trials in the order they ended.
        spent, plain: denoiser evaluations spent, and of the plain way, as in
            `keystep.search.choice.search_costs.SearchCosts`.
        seconds: of workers, all together.
    """

    facts: SearchFacts
    values: dict[str, dict[int, float]] = field(default_factory=dict)
    ended: list[Ended] = field(default_factory=list)
    spent: float = 0.0
    plain: float = 0.0
    seconds: float = 0.0
    images: list[int] = field(default_factory=list)

    def forget(self) -> None:
        """Start from nothing."""
        self.__init__(self.facts)

    def add(self, event: Event) -> None:
        """Take an event into the sums."""
        data = event.data
        if event.kind in ("block", "baseline", "trial_ended"):
            values = self.values.setdefault(str(data["slot"]), {})
            values.update({int(number): float(value) for number, value in data["values"].items()})
        if event.kind in ("baseline", "trial_ended", "cost"):
            self.spent += data["evaluations"]
            self.plain += self._plain(data)
            self.seconds += data["seconds"]
        if event.kind == "trial_ended":
            values = self.values[str(data["slot"])]
            found = estimates(self.facts.validation, values).get("") if values else None
            refinement = Refinement.model_validate(data["refinement"])
            self.ended.append(Ended(data["slot"], refinement, data["params"], data["state"], values, found))
            self.images.append(sum(len(trial.values) for trial in self.ended))

    def _plain(self, data: Mapping[str, Any]) -> float:
        alone = data["evaluations_alone"]
        if "values" not in data:  # the held-out part, all of which is seen
            return alone
        return plain_evaluations(alone, len(data["values"]), len(self.facts.validation.instances))

    @property
    def costs(self) -> SearchCosts:
        """What was spent up to now; how long the search ran is not known here."""
        gpus = self.facts.spec.resources.gpus
        return SearchCosts(self.spent, self.plain, worker_seconds=self.seconds, gpu_seconds=self.seconds * gpus)

    def estimate(self, slot: str) -> Estimate | None:
        """TIAM over all prompt sets of what a slot has seen."""
        values = self.values.get(slot)
        return estimates(self.facts.validation, values)[""] if values else None

    def gsng_alone(self) -> Estimate | None:
        """The best of GSNg without a refined step; None if it was not tried."""
        found = [self.estimate(slot) for slot in self.values if slot.startswith(GSNG_ALONE)]
        return max((each for each in found if each is not None), key=lambda each: each.mean, default=None)

    def best(self) -> list[Estimate]:
        """The best fully evaluated setting after every trial that ended, from the first complete one on."""
        found: list[Estimate] = []
        for trial in self.ended:
            if trial.complete and trial.estimate and (not found or trial.estimate.mean > found[-1].mean):
                found.append(trial.estimate)
            elif found:
                found.append(found[-1])
        return found

    def curve(self) -> list[CurvePoint]:
        """The best setting at every step, with and without GSNg: a complete one where there is one."""
        chosen: dict[tuple[int, bool], tuple[tuple[bool, float], CurvePoint]] = {}
        for trial in self.ended:
            iterref = trial.refinement.iterref
            if iterref is None or trial.estimate is None:
                continue
            key = iterref.step_index, trial.refinement.gsng is not None
            timestep = self.facts.timesteps[iterref.step_index]
            point = CurvePoint(key[0], timestep, key[1], trial.estimate, trial.complete)
            rank = trial.complete, trial.estimate.mean
            if key not in chosen or rank > chosen[key][0]:
                chosen[key] = rank, point
        return [point for _, (_, point) in sorted(chosen.items(), key=lambda item: item[0])]


def versions() -> dict[str, str]:
    """Python's version and those of the packages that make, judge and search, as far as they are installed."""
    found = {"python": sys.version.split()[0]}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def git_commit(folder: Path | None = None) -> str | None:
    """The commit that the code is at, with `-dirty` if files differ from it; None outside a git checkout."""
    file = Path(__file__).resolve()
    if folder is None and _git(file.parent, "ls-files", "--error-unmatch", file.name) is None:
        return None  # installed into an environment that lies in someone else's checkout
    return _git(folder or file.parent, "describe", "--always", "--abbrev=40", "--dirty", "--exclude", "*")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def curve_steps(points: Sequence[CurvePoint]) -> Mapping[int, int]:
    """What stands on the x-axis for each step index: whole timesteps if they differ, else the step indices."""
    rounded: dict[int, int] = {point.step_index: round(point.timestep) for point in points}
    whole = len(set(rounded.values())) == len(rounded) and max(rounded.values(), default=0) > 1
    return rounded if whole else {step: step for step in rounded}
