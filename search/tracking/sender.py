"""Sends a journal's events to MLflow from a thread of its own, in order, for as long as it takes."""

import logging
import os
import ssl
import threading
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import TYPE_CHECKING

from keystep.search.storing.secrets import masked
from keystep.search.tracking.search_facts import SearchFacts, Tally
from keystep.search.tracking.spool import Event, Spool
from keystep.search.tracking.tracking_uri import health_page

if TYPE_CHECKING:
    from keystep.search.tracking.tracked_runs import TrackedRuns

LOG = logging.getLogger(__name__)
PROBE_SECONDS = 3.0
FIRST_WAIT, LONGEST_WAIT = 0.5, 15.0  # seconds between attempts
LAST_ATTEMPTS = 3  # at an event, once the search is over
ATTEMPTS = 4  # after so many, an event that alone fails while the store answers is left out
MOST_LOSSES = 3  # of runs that are gone for good: a store that loses them again and again is in trouble
# What MLflow answers when sending the same again cannot help; also, when a run is deleted. Other codes, such as that of
# a constraint which two searches at once ran into, may be gone the next time.
REFUSAL = "INVALID_PARAMETER_VALUE"


class Sender(threading.Thread):
    """A daemon thread between a spool and a store. A store that does not answer is asked again, ever less often.

    What is deleted of the search while it goes on is restored, or made and told again if it is gone for good. An event
    is left out only if the store takes others of the same search before and after it.

    Args:
        spool: what to send.
        facts: of the search.
        uri: of the store.
        opened: the first event of the journal.
    """

    def __init__(self, spool: Spool, facts: SearchFacts, uri: str, opened: Event):
        super().__init__(name="keystep-tracking", daemon=True)
        self._spool, self._facts, self._uri, self._opened = spool, facts, uri, opened
        self._closing = threading.Event()
        self._runs: TrackedRuns | None = None
        self._tally = Tally(facts)
        self._counted: Event | None = None
        self._attempts = 0
        self._lost, self._losses = False, 0
        self.trouble = ""

    def run(self) -> None:
        """Send until closed; then until all is sent, or the store has failed a few times more."""
        set_up_mlflow()
        for event in self._spool.sent_events:
            self._tally.add(event)
        wait, failed_closing = FIRST_WAIT, 0
        while failed_closing < LAST_ATTEMPTS:
            event = self._spool.next(timeout=0.2)
            if event is None and self._closing.is_set():
                return
            if event is None:
                continue
            if self._deliver(event):
                wait, failed_closing = FIRST_WAIT, 0
            elif self._closing.is_set():
                failed_closing += 1
                time.sleep(FIRST_WAIT)
            else:
                self._closing.wait(wait)
                wait = min(2 * wait, LONGEST_WAIT)

    def close(self, timeout: float) -> bool:
        """Send what is left, for `timeout` seconds at most; whether all was sent."""
        self._closing.set()
        self._spool.wake()
        self.join(timeout)
        return self._spool.num_pending == 0

    def _deliver(self, event: Event) -> bool:
        """Whether the event is dealt with: logged, or refused for good. False if it must be sent again."""
        import requests
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        takes = False
        try:
            probe(self._uri)
            if self._runs is None and not self._connected():
                return True
            assert self._runs is not None
            if event is not self._counted:
                self._tally.add(event)
                self._counted, self._attempts = event, 0
            takes = self._attempts >= ATTEMPTS and self._runs.takes()
            self._attempts += 1
            self._runs.apply(event)
        except (MlflowException, requests.RequestException, SQLAlchemyError, OSError, ImportError) as error:
            if isinstance(error, MlflowException) and self._mended(event):
                return True
            refused = isinstance(error, MlflowException) and error.error_code == REFUSAL
            if not ((takes or refused) and self._runs is not None and self._runs.takes()):
                return self._failed(error)
            self._leave_out(event, error)
        except Exception:  # a bug in a figure, say: the events after this one are sent all the same
            LOG.exception("the event %s is left out of MLflow, which is keystep's fault", event.id)
        if self.trouble:
            LOG.warning("tracking goes on: %s answers again", masked(self._uri))
        self.trouble = ""
        self._spool.sent()
        return True

    def _connected(self) -> bool:
        """Opens the runs; False if the store has lost some of them, so that everything is sent again."""
        from keystep.search.tracking.tracked_runs import TrackedRuns

        self._runs, made = TrackedRuns.connect(self._uri, self._facts, self._tally, self._opened)
        lost, self._lost = self._lost or made, False
        if not (lost and self._spool.sent_events):
            return True
        self._spool.rewind()
        self._tally.forget()
        self._counted = None
        return False

    def _mended(self, event: Event) -> bool:
        """Whether the event failed because of something deleted, which is there again or will be at the next try."""
        import requests
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        if self._runs is None or self._losses == MOST_LOSSES:
            return False
        try:
            return self._runs.mend(event)
        except LookupError:
            self._losses += 1
            LOG.warning("MLflow has lost runs of this search: they are made again, and all that they had is sent again")
            self._runs, self._lost = None, True
            return True
        except (MlflowException, requests.RequestException, SQLAlchemyError, OSError):
            return False

    def _leave_out(self, event: Event, error: Exception) -> None:
        LOG.warning("MLflow does not take %s, which is left out: %s", event.id, masked(str(error)))

    def _failed(self, error: Exception) -> bool:
        if not self.trouble:
            LOG.warning(
                "tracking store %s does not take what is sent (%s); the search goes on, events are kept in %s "
                "and sent later",
                masked(self._uri),
                _first_line(error),
                self._spool.path,
            )
        self.trouble = _first_line(error)
        return False


def _first_line(error: Exception) -> str:
    return (masked(str(error)).splitlines() or [type(error).__name__])[0][:300]


def probe(uri: str) -> None:
    """Fail fast on a server that does not answer: MLflow itself would wait and retry for minutes.

    Raises:
        OSError: it does not answer, or not in HTTP, or the address is none.
    """
    if uri.startswith(("http://", "https://")):
        try:
            with urllib.request.urlopen(health_page(uri), timeout=PROBE_SECONDS):
                pass
        except urllib.error.HTTPError:
            return  # it answers; whoever stands before it may know no /health
        except urllib.error.URLError as error:
            # It answers; which certificates to trust, MLflow is told by variables of its own.
            if not isinstance(error.reason, ssl.SSLCertVerificationError):
                raise
        except HTTPException as error:
            raise OSError(f"{type(error).__name__}: {error}") from error


def set_up_mlflow() -> None:
    """Before MLflow is imported: a request is sent once, as only we know what may be sent twice; no telemetry."""
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # that it makes its tables is no news
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # our stdout holds results alone
