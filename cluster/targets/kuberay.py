"""Kubernetes with the KubeRay operator: a RayJob that brings its own Ray cluster, and takes it down when it ends."""

import json
from collections.abc import Iterator
from typing import Any

from keystep.cluster.sending.portable import portable, spec_text, variables_needed
from keystep.cluster.sending.programs import lines_of, require, run
from keystep.cluster.sending.yaml_text import yaml_text
from keystep.cluster.targets.base import Handle, State, Submission, Target
from keystep.cluster.targets.kuberay_options import KubeRayOptions
from keystep.cluster.targets.rayjob import rayjob
from keystep.search.spec.search_spec import SearchSpec
from keystep.search.storing.storage import local_folder

INSTALL = "install kubectl and let it point to the cluster (kubectl get nodes answers)"
WAITING = frozenset({"", "Initializing", "Waiting", "Suspended", "Suspending", "Retrying", "Scheduling", "Scheduled"})
ENDED = frozenset({"Complete", "Failed", "ValidationFailed"})


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
