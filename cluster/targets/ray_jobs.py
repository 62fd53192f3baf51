"""A Ray cluster that runs already, through Ray's Jobs SDK."""

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import yaml
from pydantic import Field

from keystep.cluster.sending.portable import portable, spec_text, variables_needed
from keystep.cluster.sending.yaml_text import yaml_text
from keystep.cluster.targets.base import Handle, Options, State, Submission, Target, Variable, entrypoint, words
from keystep.core.frozen import FromList
from keystep.search.spec.search_spec import SearchSpec

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
PATIENCE = 60.0  # seconds that a job gets to stop
PAUSE = 1.0  # seconds between two looks at a job
PHASES = {"PENDING": "waiting", "RUNNING": "running"}
Address = Annotated[
    str, words(r"https?://[\w.-]+(:\d+)?(/[\w./-]*)?", "like http://HOST:8265, without a password", secret=True)
]


class RayOptions(Options):
    """How the cluster is reached, and what goes along.

    Args:
        address: of the cluster's dashboard; None is RAY_API_SERVER_ADDRESS, else http://127.0.0.1:8265.
        working_dir: a folder to send along; None sends the spec alone.
        env: variables of the cluster's own environment that the search needs.
    """

    address: Address | None = None
    working_dir: str | None = None
    env: Annotated[tuple[Variable, ...], FromList] = Field(default=())


class RayJobs(Target):
    """The text is the job as the SDK is told it, as YAML, with the files that go along."""

    options = RayOptions

    def plan(self, spec: SearchSpec, options: RayOptions) -> Submission:
        address = options.address or os.environ.get("RAY_API_SERVER_ADDRESS") or DEFAULT_ADDRESS
        RayOptions.from_plain({"address": address}, "RAY_API_SERVER_ADDRESS")
        folder = None if options.working_dir is None else Path(options.working_dir).resolve()
        if folder is not None and not folder.is_dir():
            raise ValueError(f"--working-dir {options.working_dir} is no folder")
        sent = portable(spec, shipped=folder)
        search_id = spec.search_id
        file = f"keystep-{search_id}.yaml"
        if folder is not None and (folder / file).exists():
            raise ValueError(f"{folder / file} is there already, where the spec would go: move it away")
        # Ray fills in ${NAME} from the environment of the node; the value never leaves it.
        runtime_env: dict[str, Any] = (
            {"env_vars": {name: f"${{{name}}}" for name in options.env}} if options.env else {}
        )
        job = {
            "address": address,
            "submission_id": search_id,
            "entrypoint": entrypoint(file, options, (*options.env, *variables_needed(sent))),
            "runtime_env": runtime_env,
            "metadata": {"keystep_search": search_id, "keystep_name": spec.name},
            "working_dir": str(folder) if folder else None,
            "files": {file: spec_text(sent)},
        }
        return Submission(yaml_text(job), f"Ray's Jobs API at {address}", {"address": address, "job": search_id})

    def submit(self, submission: Submission) -> Handle:
        job = yaml.safe_load(submission.text)
        client = connect(job["address"])
        wanted = _free_id(client, job["submission_id"])
        with tempfile.TemporaryDirectory(prefix="keystep-") as folder:
            sent = _folder_to_send(Path(folder), job["working_dir"], job["files"])
            done = client.submit_job(
                entrypoint=job["entrypoint"],
                submission_id=wanted,
                runtime_env=job["runtime_env"] | {"working_dir": str(sent)},
                metadata=job["metadata"],
            )
        return {"address": job["address"], "job": done}

    def state(self, handle: Handle) -> State:
        info = _info(connect(handle["address"]), handle["job"])
        if info is None:
            return State("gone", f"the cluster at {handle['address']} knows no job {handle['job']}")
        phase = PHASES.get(info.status.value, "ended")
        detail = f"job {handle['job']} {info.status.value}"
        return State(phase, f"{detail}: {info.message}" if info.message else detail)  # pyright: ignore[reportArgumentType]

    def logs(self, handle: Handle, follow: bool) -> Iterator[str]:
        client = connect(handle["address"])
        seen = 0
        while True:
            ended = not self.state(handle).active
            text = client.get_job_logs(handle["job"])
            yield text[seen:]
            seen = len(text)
            if ended or not follow:
                return
            time.sleep(PAUSE)

    def stop(self, handle: Handle) -> str:
        client = connect(handle["address"])
        state = self.state(handle)
        if state.active:
            client.stop_job(handle["job"])
        deadline = time.monotonic() + PATIENCE
        while state.active:
            if time.monotonic() > deadline:
                raise ValueError(f"job {handle['job']} was asked to stop, and still runs after {PATIENCE:g} s")
            time.sleep(PAUSE / 2)
            state = self.state(handle)
        return state.detail


def connect(address: str) -> "JobSubmissionClient":
    """A client of the Jobs API. It sends the token of RAY_AUTH_TOKEN or ~/.ray/auth_token with RAY_AUTH_MODE=token.

    Raises:
        ValueError: nothing answers, it is no Ray cluster, or it wants another token; says what to do.
    """
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except AuthenticationError as error:
        raise ValueError(
            f"the cluster at {address} wants a token: set RAY_AUTH_MODE=token, and put the cluster's token into "
            f"~/.ray/auth_token or RAY_AUTH_TOKEN ({str(error).splitlines()[0]})"
        ) from None
    except (ConnectionError, RuntimeError) as error:
        raise ValueError(
            f"no Ray cluster answers at {address} ({str(error).splitlines()[0]}). Give the address of its dashboard "
            "with --address; for a cluster behind a firewall open a tunnel first, as in "
            "ssh -L 8265:127.0.0.1:8265 HEAD"
        ) from None


def _info(client: "JobSubmissionClient", job: str) -> Any:
    """What the cluster knows of a job; None if nothing."""
    return next((info for info in client.list_jobs() if info.submission_id == job), None)


def _free_id(client: "JobSubmissionClient", search_id: str) -> str:
    """The search's id, with a number behind it if jobs of that id have ended.

    Raises:
        ValueError: such a job is still at work.
    """
    jobs = {info.submission_id: info for info in client.list_jobs()}
    wanted, number = search_id, 1
    while wanted in jobs:
        if not jobs[wanted].status.is_terminal():
            raise ValueError(f"job {wanted} runs this search already: follow it with keystep logs {search_id} --follow")
        number += 1
        wanted = f"{search_id}-{number}"
    return wanted


def _folder_to_send(folder: Path, working_dir: str | None, files: dict[str, str]) -> Path:
    """A folder with the files, and links to what the working directory holds beside them."""
    for entry in Path(working_dir).iterdir() if working_dir else ():
        (folder / entry.name).symlink_to(entry)
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8")
    return folder
