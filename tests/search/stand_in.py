"""A trainable of milliseconds whose outcomes are known beforehand. Imports little, so that workers start at once.

An outcome is 1 where a hash of (setting, instance) falls below the setting's quality: the best setting is known, every
run of anything sees the same, and a folder of files shows what was computed, by whom, and how often.
"""

import hashlib
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from ray import tune

BEST_STEP = 3


def quality(refinement: dict[str, Any] | None) -> float:
    """Chance that a setting's outcome is 1: best at step BEST_STEP with guidance."""
    if refinement is None:
        return 0.35
    away = abs(refinement["iterref"]["step_index"] - BEST_STEP)
    return 0.85 - 0.15 * away + (0.08 if refinement["gsng"] else 0.0)


def setting_key(refinement: dict[str, Any] | None) -> str:
    return hashlib.sha256(json.dumps(refinement, sort_keys=True).encode()).hexdigest()[:12]


def outcome(refinement: dict[str, Any] | None, number: int) -> float:
    drawn = int.from_bytes(hashlib.sha256(f"{setting_key(refinement)}/{number}".encode()).digest()[:4]) / 2**32
    return float(drawn < quality(refinement))


class StandIn(tune.Trainable):
    """The trainable. `config["evaluator"]` holds JSON:

    store: folder of what is known and of the log.
    blocks: instance numbers of each block.
    seconds: what a block takes.
    slow: [slot, seconds], of a slot whose blocks take longer.
    late: seconds that every worker but the first takes to start.
    together: how many workers begin at once, when all are there.
    fail: slots that raise.
    die: [slot, block] where the worker process is killed, once.
    """

    def setup(self, config: dict[str, Any]) -> None:
        self.reset_config(config)
        if late := self._play.get("late"):
            try:
                (self._store / "first").touch(exist_ok=False)
            except FileExistsError:
                time.sleep(late)
        if together := self._play.get("together"):
            (self._store / f"{os.getpid()}-there").touch()
            while len(list(self._store.glob("*-there"))) < together:
                time.sleep(0.05)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._play = json.loads(new_config["evaluator"])
        self._refinement, self._slot = new_config["refinement"], new_config["slot"]
        self._store = Path(self._play["store"])
        self._block = 0
        self._values: dict[int, float] = {}
        return True

    def step(self) -> dict[str, Any]:
        if self._slot in self._play.get("fail", ()):
            raise ZeroDivisionError(f"slot {self._slot} cannot be done")
        blocks = self._play["blocks"]
        known = self._store / f"{setting_key(self._refinement)}-{self._block}"
        computed = not known.exists()
        numbers = blocks[self._block]
        if computed:
            self._log("begin")
            slow, seconds = self._play.get("slow", (None, 0.0))
            time.sleep(seconds if self._slot == slow else self._play.get("seconds", 0.0))
            self._die_if_told()
            known.write_text("known")
            self._log("done")
        outcomes = {number: outcome(self._refinement, number) for number in numbers}
        self._values |= outcomes
        self._block += 1
        return {
            "slot": self._slot,
            "block": self._block - 1,
            "outcomes": list(outcomes.items()),
            "tiam": sum(self._values.values()) / len(self._values),
            "num_instances": len(self._values),
            "num_total": sum(len(block) for block in blocks),
            "evaluations": 10.0 * len(numbers) if computed else 0.0,
            "evaluations_alone": 25.0 * len(numbers),
            "seconds": 0.5 if computed else 0.0,
            "computed": len(numbers) if computed else 0,
            "done": self._block == len(blocks),
        }

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        state = {"block": self._block, "values": list(self._values.items())}
        (Path(checkpoint_dir) / "state.json").write_text(json.dumps(state))

    def load_checkpoint(self, checkpoint: str | dict | None) -> None:
        assert isinstance(checkpoint, str)
        state = json.loads((Path(checkpoint) / "state.json").read_text())
        self._block, self._values = state["block"], {number: value for number, value in state["values"]}

    def _log(self, what: str) -> None:
        with open(self._store / "log", "a") as file:
            file.write(f"{what} {self._slot} {self._block} {os.getpid()}\n")

    def _die_if_told(self) -> None:
        if [self._slot, self._block] == self._play.get("die") and not (self._store / "died").exists():
            (self._store / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
