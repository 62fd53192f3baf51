"""Tracks a search in MLflow without ever holding it up.

Every call writes a line to a journal (`spool`) and returns; a thread (`sender`) sends the journal to MLflow
(`tracked_runs`, `mlflow_store`). A server that is slow, dead or was never there costs the search nothing: what could
not be sent is sent when it answers, or when the same search starts again.
"""

import logging
import re
import uuid
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from keystep.core.config import GSNg, Refinement
from keystep.search.storing.secrets import masked
from keystep.search.tracking.run_fields import metric_values
from keystep.search.tracking.search_facts import BASELINE, GSNG_ALONE, SearchFacts, git_commit, versions
from keystep.search.tracking.sender import Sender
from keystep.search.tracking.spool import Spool, event
from keystep.search.tracking.tracking_uri import tracking_uri

if TYPE_CHECKING:
    from keystep.search.choice.metric_estimates import MetricsFound
    from keystep.search.choice.result import Chosen
    from keystep.search.choice.search_costs import SearchCosts
    from keystep.search.choice.selection import HeldOut
    from keystep.search.settings.ledger import TrialRecord
    from keystep.search.spec.instances import Part
    from keystep.search.spec.search_spec import SearchSpec

LOG = logging.getLogger(__name__)


class Tracker:
    """Tells MLflow what a search does. No method raises or waits for the store; ids make repeats harmless.

    A resumed search may tell again all it knows: what was told before is dropped. Calls before `start` and, if
    tracking is not enabled, all calls do nothing.

    Args:
        spec: of the search; names the store and the experiment.
        folder: of the search, local: the journal is kept in `tracking/` of it.
    """

    def __init__(self, spec: "SearchSpec", folder: Path | str):
        self.spec, self.folder = spec, Path(folder) / "tracking"
        self._spool: Spool | None = None
        self._sender: Sender | None = None
        self._session = 0

    def __getstate__(self) -> dict[str, Any]:
        """Ray Tune keeps its callbacks in a file: a tracker that has not started, and no address with a password."""
        spec = self.spec.without_secrets()
        return {"spec": spec, "folder": self.folder, "_spool": None, "_sender": None, "_session": 0}

    def start(
        self,
        validation: "Part",
        held_out: "Part | None",
        timesteps: Sequence[float],
        *,
        fresh: bool = False,
    ) -> None:
        """Open the search's runs, or go on with them; send what an earlier process could not.

        Args:
            validation, held_out: the parts of the search.
            timesteps: of the schedule, the noisiest first.
            fresh: begin a new parent run although there is one.
        """
        if not self.spec.tracking.enabled:
            return
        import yaml

        uri = tracking_uri(self.spec)
        self._spool = Spool(self.folder, self._target, fresh)
        if (first := self._spool.first) is None:
            data = {
                "attempt": uuid.uuid4().hex[:12],
                "fresh": fresh,
                "uri": uri,
                "spec": yaml.safe_dump(masked(self.spec.model_dump(mode="json")), sort_keys=False, allow_unicode=True),
                "versions": versions(),
                "git_commit": git_commit(),
            }
            first = event("opened", "opened", data)
            self._spool.append(first)
        else:
            self._session = self._spool.count("resumed") + 1
            self._spool.append(event(f"resumed/{self._session}", "resumed"))
        facts = SearchFacts(self.spec, validation, held_out, tuple(timesteps))
        self._sender = Sender(self._spool, facts, uri, first)
        self._sender.start()

    def is_through(self) -> bool:
        """Before `start`: whether earlier processes have told and sent all, to the end, or never tracked here."""
        if not self.spec.tracking.enabled or not self.folder.exists():
            return True
        spool = Spool(self.folder, self._target)
        return spool.first is None or ("concluded" in spool and not spool.num_pending)

    @property
    def num_pending(self) -> int:
        """Events that the store has not got yet."""
        return 0 if self._spool is None else self._spool.num_pending

    @property
    def status(self) -> str:
        """One line for whoever watches: where it is tracked, and what is still to be sent."""
        if self._spool is None or self._sender is None:
            return "Not tracked"
        uri, pending = masked(tracking_uri(self.spec)), self._spool.num_pending
        if pending and not self._sender.is_alive():
            kept = f"{pending} events are kept in {self._spool.path} and sent when the search starts again"
            return f"Tracking stopped; {kept}"
        if not self._sender.trouble:
            return f"Tracked in {uri}" + (f", {pending} events to send" if pending else "")
        return f"Tracking: {uri} does not answer; {pending} events are kept and sent later"

    def baseline(
        self,
        values: Mapping[int, float],
        gsng: GSNg | None = None,
        *,
        evaluations: float = 0.0,
        evaluations_alone: float = 0.0,
        seconds: float = 0.0,
    ) -> None:
        """The unrefined model, or GSNg alone, on the validation instances: outcomes by instance number, and cost."""
        plain = None if gsng is None else gsng.model_dump(mode="json")
        slot = BASELINE if plain is None else f"{GSNG_ALONE}-{sha256(repr(plain).encode()).hexdigest()[:6]}"
        data = _outcomes(values) | {"slot": slot, "gsng": plain}
        self._tell(slot, "baseline", data | _cost(evaluations, evaluations_alone, seconds))

    def trial_started(self, slot: int, refinement: Refinement) -> None:
        """A setting begins to be tried, or goes on after an interruption."""
        if self._ended(slot):
            return
        self._tell(f"slot/{slot}/started/{self._session}", "trial_started", _setting(slot, refinement))

    def block(self, slot: int, refinement: Refinement, outcomes: Mapping[int, float], num_instances: int) -> None:
        """A trial has seen `num_instances` instances, of which `outcomes` are new."""
        if not self._ended(slot):
            data = _setting(slot, refinement) | _outcomes(outcomes)
            self._tell(f"slot/{slot}/seen/{num_instances}", "block", data)

    def trial_ended(self, record: "TrialRecord") -> None:
        """A trial is complete, pruned or failed."""
        if record.values:
            self.block(record.slot, record.refinement, record.values, len(record.values))
        data = _setting(record.slot, record.refinement) | _outcomes(record.values)
        data |= {
            "params": dict(record.params),
            "state": record.state,
            "reason": record.reason,
            "p_value": _p_value(record.reason),
        }
        data |= _cost(record.evaluations, record.evaluations_alone, record.seconds)
        self._tell(f"slot/{record.slot}/ended", "trial_ended", data)

    def cost(self, name: str, evaluations: float, evaluations_alone: float, seconds: float) -> None:
        """What something other than baseline and trials has cost, such as the held-out part; once a name."""
        self._tell(f"cost/{name}", "cost", _cost(evaluations, evaluations_alone, seconds))

    def file(self, path: Path | str, folder: str | None = None) -> None:
        """A file for the parent run, put into `folder` of its artifacts; it must stay until it is sent."""
        path = Path(path).absolute()
        self._tell(f"file/{folder}/{path.name}/{_stamp(path)}", "file", {"path": str(path), "folder": folder})

    def image(self, key: str, step: int, path: Path | str) -> None:
        """A picture for the parent run's image grid: a slider steps through those of one `key`.

        Same step, different keys (`1 before`, `2 after`) show side by side. The file must stay until it is sent.
        """
        self._tell(f"image/{key}/{step}", "image", {"key": key, "step": step, "path": str(Path(path).absolute())})

    def metrics(self, found: "MetricsFound") -> None:
        """What was measured of held-out images beside TIAM; once for each choice of models."""
        data = {"metrics": metric_values(found), "models": found.models}
        models = sha256(repr(sorted(found.models.items())).encode()).hexdigest()[:8]
        self._tell(f"metrics/{models}", "metrics", data)

    def conclude(
        self, chosen: "Chosen", held_out: "HeldOut | None", export_command: str, costs: "SearchCosts | None" = None
    ) -> None:
        """The end: winner, verdict, costs, curves, figures and the note that says how to go on."""
        from keystep.search.tracking.conclusion import conclusion

        self._tell("concluded", "concluded", conclusion(self.spec, chosen, held_out, export_command, costs))

    def close(self, timeout: float = 10.0, *, status: Literal["FINISHED", "KILLED", "FAILED"] = "FINISHED") -> bool:
        """End the parent run with `status`; wait up to `timeout` seconds for what is left to be sent.

        KILLED is an interrupted search: the same command goes on with the same runs. Returns whether all was
        sent; if not, it is sent when the search starts again.
        """
        if self._spool is None or self._sender is None:
            return True
        self._tell(f"closed/{self._session}", "closed", {"status": status})
        done = self._sender.close(timeout)
        if not done:
            LOG.warning("%s", self.status)
        return done

    @property
    def _target(self) -> str:
        """Short name of the store and experiment that are told."""
        return sha256(f"{tracking_uri(self.spec)} {self.spec.tracking.experiment}".encode()).hexdigest()[:8]

    def _ended(self, slot: int) -> bool:
        return self._spool is not None and f"slot/{slot}/ended" in self._spool

    def _tell(self, event_id: str, kind: str, data: Mapping[str, Any]) -> None:
        if self._spool is not None:
            self._spool.append(event(event_id, kind, data))


def _setting(slot: int, refinement: Refinement) -> dict[str, Any]:
    return {"slot": slot, "refinement": refinement.model_dump(mode="json")}


def _outcomes(values: Mapping[int, float]) -> dict[str, Any]:
    return {"values": {str(number): float(value) for number, value in values.items()}}


def _cost(evaluations: float, evaluations_alone: float, seconds: float) -> dict[str, float]:
    return {"evaluations": evaluations, "evaluations_alone": evaluations_alone, "seconds": seconds}


def _p_value(reason: str) -> str | None:
    """The p that a pruner names in its reason."""
    found = re.search(r"\bp = (\S+)", reason)
    return found[1] if found else None


def _stamp(path: Path) -> str:
    """What tells one state of a file from another."""
    try:
        found = path.stat()
    except OSError:
        return "gone"
    return f"{found.st_mtime_ns}-{found.st_size}"
