"""What a search tells whoever is watching: one live view on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TextIO

from ray import tune
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from keystep.search.choice.search_costs import SearchCosts

STAGES = ("preflight", "baseline", "trials", "held-out", "metrics", "pictures")
PLAIN_SECONDS = 10.0  # between two lines of the same stage when there is no terminal


@dataclass(frozen=True)
class Images:
    """How many images a search makes.

    Attributes:
        baseline: before the trials.
        trial: of one trial that is not stopped.
        held_out: after them.
    """

    baseline: int
    trial: int
    held_out: int


@dataclass
class Watched:
    """The state that the view shows; the search changes it, nothing reads it back.

    Attributes:
        name: of the search.
        num_slots: trials of the search at most.
        stage: one of `STAGES`.
        done, total: blocks of a stage other than the trials.
        running: slot to (objective so far, instances seen, instances in all).
        complete, pruned, failed: trials ended so.
        known: how many of these had ended before this process began.
        best: the best fully evaluated setting and its TIAM with interval, in words.
        spent, plain: denoiser evaluations up to the last trial that ended, as in
            `keystep.search.choice.search_costs.SearchCosts`.
        images: how many there are to make; None if that is not known.
        seen: of trials that ended in this process or before.
        workers: how many there are and what they do, in words.
    """

    name: str
    num_slots: int
    stage: str = "preflight"
    done: int = 0
    total: int = 0
    running: dict[int, tuple[float, int, int]] = field(default_factory=dict)
    complete: int = 0
    pruned: int = 0
    failed: int = 0
    known: int = 0
    best: str = ""
    spent: float = 0.0
    plain: float = 0.0
    images: Images | None = None
    seen: int = 0
    workers: str = ""
    known_images: float = 0.0
    started: float = field(default_factory=time.monotonic)
    stage_started: float = field(default_factory=time.monotonic)

    @property
    def ended(self) -> int:
        """Trials that ended, in whatever way."""
        return self.complete + self.pruned + self.failed

    @property
    def share(self) -> float:
        """How much of the stage is done, in [0, 1]."""
        if self.stage != "trials":
            return self.done / self.total if self.total else 0.0
        under_way = sum(seen / total for _, seen, total in self.running.values() if total)
        return min(1.0, (self.ended + under_way) / self.num_slots) if self.num_slots else 1.0

    @property
    def eta(self) -> float | None:
        """Seconds until the held-out part is done, at the pace of the whole search so far; None while there is none.

        A trial that is still to come is taken to see as many images as those that ended did on average.
        """
        if self.images is None or self.stage not in STAGES[1:4]:
            return None
        mean = self.seen / self.ended if self.ended else float(self.images.trial)
        under_way = float(sum(seen for _, seen, _ in self.running.values()))
        share = self.done / self.total if self.total else 0.0
        past = STAGES.index(self.stage)
        made = [
            self.images.baseline * (share if past == 1 else 1.0),
            self.seen + under_way,
            self.images.held_out * (share if past == 3 else 0.0),
        ]
        waiting = max(0, self.num_slots - self.ended - len(self.running)) * mean
        going_on = sum(max(0.0, min(mean, total) - seen) for _, seen, total in self.running.values() if total)
        left = [self.images.baseline - made[0], waiting + going_on if past < 3 else 0.0]
        left.append(self.images.held_out - made[2])
        gained = sum(made) - self.known_images
        elapsed = time.monotonic() - self.started
        return elapsed * sum(left) / gained if gained > 0.02 * (sum(made) + sum(left)) else None

    @property
    def saved(self) -> str:
        """Denoiser evaluations spent, against the plain way, in words."""
        if not self.plain:
            return "none yet"
        return f"{self.spent:,.0f} of {self.plain:,.0f} ({1 - self.spent / self.plain:.0%} saved)"


class SearchView:
    """Shows a search as it runs: `with SearchView(watched).shown():`.

    Args:
        watched: what to show; changed through the methods, so that every change is seen.
        stream: where; stderr by default, so that stdout holds results alone.
    """

    def __init__(self, watched: Watched, stream: TextIO | None = None):
        self.watched = watched
        self._console = Console(file=stream or sys.stderr, highlight=False)
        self._said = 0.0
        self._warned: set[str] = set()

    @contextmanager
    def shown(self) -> Iterator["SearchView"]:
        """While open, the view is live on a terminal; elsewhere it says a line now and then."""
        if not self._console.is_terminal:
            yield self
            return
        with Live(console=self._console, get_renderable=self.render, refresh_per_second=4, redirect_stdout=False):
            yield self

    def stage(self, name: str, total: int = 0) -> None:
        """A new stage begins; `total` blocks make it up."""
        self.watched.stage, self.watched.done, self.watched.total = name, 0, total
        self.watched.stage_started = time.monotonic()
        self._say(always=True)

    def advance(self, blocks: int = 1, spent: float = 0.0, plain: float = 0.0) -> None:
        """`blocks` more of the stage are done, at that many denoiser evaluations."""
        self.watched.done += blocks
        self.watched.spent += spent
        self.watched.plain += plain
        self._say()

    def resume(self, states: Sequence[str], seen: int = 0) -> None:
        """Trials that ended so (complete, pruned, failed) before this process began, with so many images in all."""
        self.watched.complete += states.count("complete")
        self.watched.pruned += states.count("pruned")
        self.watched.failed += states.count("failed")
        self.watched.known += len(states)
        self.watched.seen += seen
        self.watched.known_images += seen

    def workers(self, state: Mapping[str, Any]) -> None:
        """What the pool's workers do, as `keystep.search.work.dispatcher.Dispatcher.state` says it."""
        machines, starting = state["workers"], state["starting"]
        text = f"{state['busy']} of {sum(machines.values())} at work"
        if len(machines) > 1:
            text += f" on {len(machines)} machines"
        self.watched.workers = text + (f", {starting} starting" if starting else "")

    def spent(self, costs: SearchCosts) -> None:
        """What the search has cost up to now, with all of its runs."""
        self.watched.spent, self.watched.plain = costs.evaluations_spent, costs.evaluations_plain

    def best(self, text: str) -> None:
        """The best setting so far, in words."""
        self.watched.best = text

    def note(self, text: str) -> None:
        """A line that stays, above the live view."""
        self._console.print(text, markup=False, soft_wrap=not self._console.is_terminal)

    def warn(self, texts: Sequence[str]) -> None:
        """Lines that stay, each told once."""
        for text in texts:
            if text not in self._warned:
                self._warned.add(text)
                self.note(f"Note: {text}")

    def render(self) -> RenderableType:
        """The view as rich draws it."""
        watched = self.watched
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="bold")
        grid.add_column()
        grid.add_row("search", f"{watched.name}, {_clock(time.monotonic() - watched.started)}")
        progress = Table.grid(padding=(0, 1))
        eta = "" if watched.eta is None else f"about {_clock(watched.eta)} left"
        progress.add_row(ProgressBar(total=1.0, completed=watched.share, width=32), f"{watched.share:>4.0%}", eta)
        grid.add_row(watched.stage, progress)
        if watched.stage == "trials" or watched.ended:
            grid.add_row("trials", self._counts())
        if watched.workers:
            grid.add_row("workers", watched.workers)
        if watched.best:
            grid.add_row("best so far", watched.best)
        grid.add_row("evaluations", watched.saved)
        return Group(Text(), grid)

    def _counts(self) -> str:
        watched = self.watched
        text = f"{len(watched.running)} running, {watched.complete} complete, {watched.pruned} pruned"
        text += f", {watched.failed} failed" if watched.failed else ""
        return f"{text}, of {watched.num_slots}"

    def _say(self, always: bool = False) -> None:
        now = time.monotonic()
        if self._console.is_terminal or (not always and now - self._said < PLAIN_SECONDS):
            return
        self._said = now
        watched = self.watched
        parts = [f"[{_clock(now - watched.started)}] {watched.stage} {watched.share:.0%}"]
        if watched.stage == "trials":
            parts.append(self._counts())
        if watched.workers:
            parts.append(f"workers {watched.workers}")
        if watched.best:
            parts.append(f"best {watched.best}")
        if watched.plain:
            parts.append(f"evaluations {watched.saved}")
        if watched.eta is not None:
            parts.append(f"about {_clock(watched.eta)} left")
        self._console.print("; ".join(parts), markup=False, soft_wrap=True)


class ViewCallback(tune.Callback):
    """Tells the view what Ray Tune's trials do.

    Args:
        look: called several times a second.
    """

    def __init__(self, view: SearchView, look: Callable[[], None] = lambda: None):
        self._view, self._look = view, look

    def on_step_end(self, iteration: int, trials: list, **info: Any) -> None:
        self._look()

    def __getstate__(self) -> dict[str, Any]:
        """Ray Tune keeps its callbacks in a file; the view, which has a terminal, does not go there."""
        return {}

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        slot = trial.config["slot"]
        self._view.watched.running.setdefault(slot, (0.0, 0, 0))
        self._view.advance(0)

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        self._view.watched.running[result["slot"]] = (result["tiam"], result["num_instances"], result["num_total"])
        self._view.advance(0)

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        _, seen, total = self._view.watched.running.pop(trial.config["slot"], (0.0, 0, 0))
        self._view.watched.seen += seen
        if seen and seen == total:
            self._view.watched.complete += 1
        else:
            self._view.watched.pruned += 1
        self._view.advance(0)

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        _, seen, _ = self._view.watched.running.pop(trial.config["slot"], (0.0, 0, 0))
        self._view.watched.seen += seen
        self._view.watched.failed += 1
        self._view.advance(0)


class TellNotices(tune.Callback):
    """Hands on what the workers of trials have to tell the user (`keystep.search.images.notices`)."""

    def __init__(self, tell: Callable[[Iterable[str]], None]):
        self._tell = tell

    def __getstate__(self) -> dict[str, Any]:
        """Ray Tune keeps its callbacks in a file; what tells does not go there."""
        return {}

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        self._tell(result.get("notices", ()))


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
