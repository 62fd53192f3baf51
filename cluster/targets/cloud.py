"""AWS or Google Cloud through the cluster launcher of Ray: one cluster a search, which goes when it is stopped."""

import importlib.util
import shlex
import time
from collections.abc import Iterator
from pathlib import Path

import yaml

from keystep.cluster.sending.launches import launches_folder
from keystep.cluster.sending.portable import portable, spec_text, variables_needed
from keystep.cluster.sending.programs import lines_of, run
from keystep.cluster.sending.yaml_text import yaml_text
from keystep.cluster.targets.base import Handle, State, Submission, Target, entrypoint
from keystep.cluster.targets.cloud_nodes import PROVIDERS, node_types, provider_section
from keystep.cluster.targets.cloud_options import CloudOptions
from keystep.cluster.targets.ray_jobs import PHASES
from keystep.search.spec.search_spec import SearchSpec

INSTALL = "pip install 'keystep[search,cloud]', which brings boto3 (aws) and google-api-python-client (gcp)"
TOKEN = "~/.ray/auth_token"
HOME = "/home/keystep"  # in the image, as cluster/templates/Dockerfile makes it
SPEC_FOLDER = f"{HOME}/searches"
GONE = ("Head node of cluster", "does not exist")
"""What Ray says where a cluster has no head (`ray exec`), and where a head knows no such job (`ray job status`)."""
START = "export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0; ulimit -n 65536; ray start"


class Cloud(Target):
    """The text is the YAML for `ray up`; the job that is submitted on the head is in its `metadata`."""

    options = CloudOptions

    def plan(self, spec: SearchSpec, options: CloudOptions) -> Submission:
        sent = portable(spec)
        if "://" not in sent.storage.path or sent.storage.path.startswith("file:"):
            scheme = PROVIDERS[options.provider].scheme
            raise ValueError(
                f"storage.path is {sent.storage.path}, and cloud machines share no disk: "
                f"--set storage.path={scheme}://bucket/prefix"
            )
        if options.provider == "gcp" and options.project is None:
            raise ValueError("--project: Google Cloud wants the id of the project that pays for the machines")
        search_id = spec.search_id
        text = yaml_text(cluster_config(search_id, spec_text(sent), options, variables_needed(sent)))
        return Submission(
            text, "ray up", {"config": str(launches_folder() / f"{search_id}.cloud.yaml"), "job": search_id}
        )

    def submit(self, submission: Submission) -> Handle:
        config = yaml.safe_load(submission.text)
        package = PROVIDERS[config["provider"]["type"]].package
        if importlib.util.find_spec(package) is None:
            raise ValueError(f"Ray's cluster launcher needs {package} here: {INSTALL}")
        if not Path(TOKEN).expanduser().exists():
            run(["ray", "get-auth-token", "--generate"], install=INSTALL)
        file = Path(submission.handle["config"])
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(submission.text, encoding="utf-8")
        job = f"{submission.handle['job']}-{int(time.time())}"  # Ray takes the id of a job once
        try:
            run(["ray", "up", "--yes", str(file)], install=INSTALL)
            self._on_head(submission.handle, config["metadata"]["submit"].replace("JOB", job))
        except ValueError as error:
            raise ValueError(
                f"{error}\nMachines may be up by now, and cost money: put it right and launch again, or give them back "
                f"with ray down --yes {shlex.quote(str(file))}"
            ) from None
        return submission.handle | {"job": job}

    def state(self, handle: Handle) -> State:
        try:
            said = self._on_head(handle, f"ray job status {handle['job']}")
        except ValueError as error:
            if not any(words in str(error) for words in GONE):
                raise  # a head that cannot be reached may well run the search
            return State("gone", f"nothing runs it: {error}")
        word = next((word for word in ("PENDING", "RUNNING", "SUCCEEDED", "FAILED", "STOPPED") if word in said), "")
        phase = PHASES.get(word, "ended")
        return State(phase, f"job {handle['job']} {word}")  # pyright: ignore[reportArgumentType]

    def logs(self, handle: Handle, follow: bool) -> Iterator[str]:
        command = f"ray job logs {handle['job']}" + (" --follow" if follow else "")
        return lines_of(["ray", "exec", handle["config"], command], install=INSTALL)

    def stop(self, handle: Handle) -> str:
        run(["ray", "down", "--yes", handle["config"]], install=INSTALL)
        return "the machines are gone; what was found is in the search's storage"

    def _on_head(self, handle: Handle, command: str) -> str:
        return run(["ray", "exec", handle["config"], command], install=INSTALL)


def cluster_config(search_id: str, spec: str, options: CloudOptions, env: tuple[str, ...] = ()) -> dict[str, object]:
    """The configuration of Ray's cluster launcher; `env` as `keystep.cluster.targets.base.entrypoint` takes it."""
    head, worker = node_types(options)
    file = f"{SPEC_FOLDER}/{search_id}.yaml"
    wait = f"python -m keystep.cluster.scale_up --nodes {options.nodes} --cpus {options.cpus} --gpus {options.gpus} --"
    search = entrypoint(file, options, env)
    return {
        "cluster_name": f"keystep-{search_id}",
        "provider": provider_section(options),
        "auth": {"ssh_user": "ubuntu"},
        "docker": {"image": options.image, "container_name": "keystep"},
        "max_workers": options.nodes,
        "idle_timeout_minutes": options.idle_minutes,
        "head_node_type": "head",
        "available_node_types": {"head": head, "spot": worker},
        # The token that Ray asks for on this machine, made here by ray get-auth-token if there is none.
        "file_mounts": {f"{HOME}/.ray/auth_token": TOKEN},
        "setup_commands": [
            "grep -qs RAY_AUTH_MODE ~/.bashrc || echo 'export RAY_AUTH_MODE=token' >> ~/.bashrc",
            *options.setup,
        ],
        "head_setup_commands": [f"mkdir -p {SPEC_FOLDER} && printf %s {shlex.quote(spec)} > {file}"],
        "head_start_ray_commands": [
            "ray stop",
            f"{START} --head --port=6379 --autoscaling-config=~/ray_bootstrap_config.yaml --dashboard-host=127.0.0.1",
        ],
        "worker_start_ray_commands": ["ray stop", f"{START} --address=$RAY_HEAD_IP:6379"],
        "cluster_synced_files": [],
        "metadata": {"submit": f"ray job submit --no-wait --submission-id JOB -- {wait} bash -c {shlex.quote(search)}"},
    }
