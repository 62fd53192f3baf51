"""Searches that are killed at random moments and started again, until so many kills are through."""

import fcntl
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from mlflow import MlflowClient

from tests.search.mlflow_server import MlflowServer
from tests.search.ray_family import Running
from tests.search.test_two_searches import outcomes_in
from tests.search.tracked_search import runs_of
from tests.search.whole_search import PLAIN, TRIALS, found_in

STAGES = ("baseline", "trials", "held-out")
SHARES = {"baseline": 0.15, "trials": 0.5, "held-out": 0.35}  # of the kills
VICTIMS = ("driver", "worker", "raylet", "gcs_server", "mlflow")
FATAL = ("driver", "raylet", "gcs_server")
CALM = {"RAY_memory_monitor_refresh_ms": "0"}  # else Ray kills workers when others on the machine use its memory
WORD_SECONDS = 30.0  # from the death of a Ray to the word of it
END_SECONDS = 60.0
SEARCH_SECONDS = 900.0
A_SEARCH = 8  # kills of one search at most


@dataclass(frozen=True)
class Kill:
    """Of `victim`, `after` seconds into the stage."""

    stage: str
    victim: str
    after: float


def plan(seed: int, kills: int) -> list[Kill]:
    """So many kills, every victim as often as another in each stage, at random moments."""
    chance = random.Random(seed)
    stages = [stage for stage in STAGES for _ in range(round(SHARES[stage] * kills))]
    stages += ["trials"] * (kills - len(stages))
    counts: Counter[str] = Counter()
    planned = []
    for stage in stages[:kills]:
        fewest = min(counts[victim] for victim in VICTIMS)
        victim = chance.choice([victim for victim in VICTIMS if counts[victim] == fewest])
        counts[victim] += 1
        planned.append(Kill(stage, victim, chance.uniform(0.0, 5.0)))
    chance.shuffle(planned)
    return planned


@dataclass
class Soak:
    """Kills as planned, in one search after the other.

    Args:
        folder: where the searches are.
        server: that they are tracked by.
        expected: what an undisturbed search finds (`whole_search.found_in`), and its outcomes (`outcomes_in`).
        seconds: that an evaluation takes longer.
    """

    folder: Path
    server: MlflowServer
    expected: tuple[Any, dict[Any, Any]]
    seconds: float = 1.5
    done: list[Kill] = field(default_factory=list)
    longest: float = 0.0  # seconds from the death of a Ray to the end of the command

    def run(self, kills: list[Kill]) -> None:
        """All of them; an AssertionError at what is not as it should be."""
        waiting, number = list(kills), 0
        while waiting:
            mine = sorted(waiting[:A_SEARCH], key=lambda kill: STAGES.index(kill.stage))
            waiting = waiting[A_SEARCH:] + self._search(self.folder / f"search-{number}", mine)
            number += 1

    def _search(self, folder: Path, kills: list[Kill]) -> list[Kill]:
        """One search with these kills, to its end; returns those for which it was over too early."""
        spec, missed = self._spec(folder), []
        for _ in range(4 * A_SEARCH):
            running = Running(
                ["-m", "tests.search.soak_search", str(spec)], KEYSTEP_SOAK_SECONDS=str(self.seconds), **CALM
            )
            try:
                through = self._command(running, kills, missed)
            finally:
                running.end()
            if self.server.process is None:
                self.server.start()
            assert running.left() == [], "processes are left"
            assert_free(folder)
            if through and "events are kept" not in running.text:
                break
        self._check(folder)
        return missed

    def _command(self, running: Running, kills: list[Kill], missed: list[Kill]) -> bool:
        """The command with as many kills as it takes; whether it came to its end."""
        while kills:
            kill = kills[0]
            mark = f"] {kill.stage} "
            if not running.wait_for(lambda mark=mark: mark in running.text, SEARCH_SECONDS):
                break
            time.sleep(kill.after)
            if any(f"] {later} " in running.text for later in STAGES[STAGES.index(kill.stage) + 1 :]):
                missed.append(kills.pop(0))
                continue
            if not self._kill(running, kill):
                if running.over:
                    break
                continue  # its worker starts a moment later
            kills.pop(0)
            self.done.append(kill)
            self._say(kill)
            if kill.victim in FATAL:
                self._see_it_end(running, kill)
                return False
        code = running.ended(SEARCH_SECONDS)
        assert code == 0, running.text
        missed += kills
        kills.clear()
        return True

    def _kill(self, running: Running, kill: Kill) -> bool:
        if self.server.process is None:
            self.server.start()
        if kill.victim == "mlflow":
            self.server.kill()
            return True
        if kill.victim == "worker":
            return running.kill("ray::Worker") or running.kill("ray::ResourceTrainable")
        return running.kill(kill.victim)

    def _see_it_end(self, running: Running, kill: Kill) -> None:
        died = time.monotonic()
        if kill.victim != "driver":
            assert running.wait_for(lambda: "keystep: Ray's" in running.text, WORD_SECONDS), running.text
        code = running.ended(END_SECONDS)
        self.longest = max(self.longest, time.monotonic() - died)
        assert code == (-9 if kill.victim == "driver" else 2), running.text
        assert "Traceback" not in running.text, running.text

    def _check(self, folder: Path) -> None:
        """The search found what it finds alone; every outcome is there, and MLflow has every run once."""
        found, (alone, outcomes) = found_in(folder), self.expected
        assert found["status"] == "finished"
        for name in ("chosen", "held_out"):
            assert found[name] == alone[name], name
        for name in ("refinement", "params", "state", "values", "tiam"):
            assert [trial[name] for trial in found["trials"]] == [trial[name] for trial in alone["trials"]], name
        here = outcomes_in(folder)
        assert here.keys() == outcomes.keys(), "an outcome is lost, or one too many"
        for key, every in here.items():
            assert every == every[:1] * len(every) and every[0] == outcomes[key][0], key
        runs = runs_of(MlflowClient(tracking_uri=self.server.uri), folder.name)
        assert {slot: len(each) for slot, each in runs.items()} == dict.fromkeys(
            ["parent", "baseline", *map(str, range(TRIALS))], 1
        )
        assert {each.info.status for every in runs.values() for each in every} == {"FINISHED"}

    def _spec(self, folder: Path) -> Path:
        folder.mkdir(parents=True)
        tracking = {"uri": self.server.uri, "experiment": folder.name}
        places = {"storage": {"path": str(folder / "runs"), "latents_gb": 0.2}, "tracking": tracking}
        (folder / "tiny.yaml").write_text(yaml.safe_dump(PLAIN | places))
        return folder / "tiny.yaml"

    def _say(self, kill: Kill) -> None:
        counts = Counter(each.stage for each in self.done)
        there = ", ".join(f"{counts[stage]} in {stage}" for stage in STAGES)
        line = f"{time.strftime('%H:%M:%S')} kill {len(self.done)}: {kill.victim}, {kill.after:.1f} s into {kill.stage}"
        with open(self.folder / "kills.log", "a") as log:
            log.write(f"{line} ({there})\n")
        print(f"{line} ({there})", flush=True)


def assert_free(folder: Path) -> None:
    """No lock of the search is held."""
    for lock in (folder / "runs").rglob("*.lock"):
        with open(lock) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
