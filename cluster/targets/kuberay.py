"""Kubernetes with the KubeRay operator: a RayJob that brings its own Ray cluster, and takes it down when it ends."""

import json
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import Field

from keystep.cluster.sending.portable import portable, spec_text, variables_needed
from keystep.cluster.sending.programs import lines_of, require, run
from keystep.cluster.sending.yaml_text import yaml_text
from keystep.cluster.targets.base import (
    MAX_CPUS,
    MAX_GPUS,
    MAX_NODES,
    Folder,
    Handle,
    Image,
    Label,
    Options,
    State,
    Submission,
    Target,
    words,
)
from keystep.cluster.targets.rayjob import MOUNT, rayjob
from keystep.core.frozen import FromList
from keystep.search.spec.search_spec import SearchSpec
from keystep.search.storing.storage import local_folder

INSTALL = "install kubectl and let it point to the cluster (kubectl get nodes answers)"
Quantity = Annotated[str, words(r"[1-9]\d*(Mi|Gi|Ti|M|G|T)", "a size such as 32Gi")]
WAITING = frozenset({"", "Initializing", "Waiting", "Suspended", "Suspending", "Retrying", "Scheduling", "Scheduled"})
ENDED = frozenset({"Complete", "Failed", "ValidationFailed"})


class KubeRayOptions(Options):
    """What the RayJob asks of Kubernetes.

    Args:
        image: with keystep in it, built from cluster/templates/Dockerfile.
        namespace: of the RayJob.
        nodes: GPU pods.
        gpus: of each pod.
        cpus: of each pod.
        memory: of each pod.
        claim: a PersistentVolumeClaim (ReadWriteMany) that all pods mount.
        mount: where they mount it.
        secret: Secrets whose keys become environment variables of all pods.
        retries: how often a job that failed is tried again, on a new Ray cluster.
        keep_seconds: how long an ended Ray cluster stays, for its logs.
    """

    image: Image
    namespace: Label = "default"
    nodes: int = Field(default=1, ge=1, le=MAX_NODES)
    gpus: int = Field(default=1, ge=0, le=MAX_GPUS)
    cpus: int = Field(default=8, ge=1, le=MAX_CPUS)
    memory: Quantity = "32Gi"
    claim: Label | None = None
    mount: Folder = MOUNT
    secret: Annotated[tuple[Label, ...], FromList] = ()
    retries: int = Field(default=3, ge=0, le=1000)
    keep_seconds: int = Field(default=600, ge=0, le=10**9)


class KubeRay(Target):
    """The text is what `kubectl apply` gets: a ConfigMap with the spec, and the RayJob."""

    options = KubeRayOptions

    def plan(self, spec: SearchSpec, options: KubeRayOptions) -> Submission:
        sent = portable(spec)
        _check_places(sent, options)
        search_id = spec.search_id
        name = f"keystep-{search_id}"
        labels = {"app.kubernetes.io/name": "keystep", "keystep/search": search_id}
        metadata = {"name": name, "namespace": options.namespace, "labels": labels}
        config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"spec.yaml": spec_text(sent)}}
        text = yaml_text(config, rayjob(search_id, metadata, options, variables_needed(sent)))
        return Submission(text, "kubectl apply -f -", {"name": name, "namespace": options.namespace})

    def submit(self, submission: Submission) -> Handle:
        # A RayJob that has ended is not run again by applying it once more.
        if self.state(submission.handle).phase == "ended":
            self.stop(submission.handle)
        run(["kubectl", "apply", "-f", "-"], text=submission.text, install=INSTALL)
        return submission.handle

    def state(self, handle: Handle) -> State:
        command = ["kubectl", "get", "rayjob", handle["name"], "-n", handle["namespace"], "--ignore-not-found"]
        found = run([*command, "-o", "json"], install=INSTALL)
        if not found.strip():
            return State("gone", f"namespace {handle['namespace']} has no RayJob {handle['name']}")
        return state_of(json.loads(found).get("status") or {})

    def logs(self, handle: Handle, follow: bool) -> Iterator[str]:
        # The pod that submitted the job prints what the job prints.
        command = ["kubectl", "logs", "-n", handle["namespace"], f"job/{handle['name']}", "--tail=-1"]
        return lines_of([*command, *(["--follow"] if follow else [])], install=INSTALL)

    def stop(self, handle: Handle) -> str:
        require("kubectl", INSTALL)
        names = [f"rayjob/{handle['name']}", f"configmap/{handle['name']}"]
        command = ["kubectl", "delete", "-n", handle["namespace"], "--ignore-not-found", *names]
        return run(command, install=INSTALL).strip() or "it was gone"


def state_of(status: dict[str, Any]) -> State:
    """Where a RayJob stands, by its `.status`."""
    deployment, job = status.get("jobDeploymentStatus", ""), status.get("jobStatus", "")
    said = " ".join(part for part in (deployment or "new", job, status.get("reason"), status.get("message")) if part)
    if deployment in WAITING:
        return State("waiting", said)
    return State("ended" if deployment in ENDED else "running", said)


def _check_places(spec: SearchSpec, options: KubeRayOptions) -> None:
    """What is kept in a folder must be on the shared volume, or it is lost with the pods."""
    folder = local_folder(spec.storage.path)
    if folder is None:
        return
    if options.claim is None:
        raise ValueError(
            f"storage.path is the folder {spec.storage.path}: name the PersistentVolumeClaim that holds it with "
            "--claim, or keep the search in an object store, --set storage.path=s3://bucket/prefix"
        )
    if not folder.is_relative_to(options.mount):
        raise ValueError(
            f"storage.path is {spec.storage.path}, and the pods mount claim {options.claim} at {options.mount}: "
            f"--set storage.path={options.mount}/runs, or another --mount"
        )
