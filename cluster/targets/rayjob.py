"""The RayJob (ray.io/v1, KubeRay 1.5.1 or newer) that runs a search, as plain values."""

from typing import Any

import ray

from keystep.cluster.targets.base import entrypoint
from keystep.cluster.targets.kuberay_options import KubeRayOptions

SPEC_FOLDER = "/etc/keystep"
USER = 1000  # as in cluster/templates/Dockerfile
SUBMITTER_RETRIES = 2
HEAD = {"cpu": "2", "memory": "8Gi"}
SUBMITTER = {"cpu": "500m", "memory": "512Mi"}
NOT_ROOT = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def rayjob(
    search_id: str, metadata: dict[str, Any], options: KubeRayOptions, env: tuple[str, ...] = ()
) -> dict[str, Any]:
    """A head without trials and `nodes` pods for them. Tokens are Ray's own, made by the operator in a Secret.

    Args:
        metadata: of the RayJob; a ConfigMap of the same name holds `spec.yaml`.
        env: variables that must be set, as `keystep.cluster.targets.base.entrypoint` takes them.
    """
    name = metadata["name"]
    worker: dict[str, Any] = {"cpu": str(options.cpus), "memory": options.memory}
    if options.gpus:
        worker["nvidia.com/gpu"] = str(options.gpus)
    head = {
        "rayStartParams": {"num-cpus": "0", "dashboard-host": "0.0.0.0"},  # seen in the cluster, with the token
        "template": _pod("ray-head", HEAD, name, metadata["labels"], options),
    }
    workers = {
        "groupName": "workers",
        "replicas": options.nodes,
        "minReplicas": options.nodes,
        "maxReplicas": options.nodes,
        "rayStartParams": {"num-cpus": str(options.cpus)},
        "template": _pod("ray-worker", worker, name, metadata["labels"], options),
    }
    submitter = _pod("ray-job-submitter", SUBMITTER, name, metadata["labels"], options)
    submitter["spec"]["restartPolicy"] = "Never"
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": metadata,
        "spec": {
            "entrypoint": entrypoint(f"{SPEC_FOLDER}/spec.yaml", options, env),
            "metadata": {"keystep_search": search_id},
            "submissionMode": "K8sJobMode",
            "backoffLimit": options.retries,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": options.keep_seconds,
            "submitterConfig": {"backoffLimit": SUBMITTER_RETRIES},
            "submitterPodTemplate": submitter,
            "rayClusterSpec": {
                "rayVersion": ray.__version__,
                "authOptions": {"mode": "token"},
                "headGroupSpec": head,
                "workerGroupSpecs": [workers],
            },
        },
    }


def _pod(
    container: str, resources: dict[str, str], name: str, labels: dict[str, str], options: KubeRayOptions
) -> dict[str, Any]:
    """A pod template of one container that may do nothing but compute."""
    volumes: list[dict[str, Any]] = [
        {"name": "spec", "configMap": {"name": name}},
        {"name": "tmp", "emptyDir": {}},
        {"name": "shm", "emptyDir": {"medium": "Memory"}},  # Ray's object store; counts as memory of the container
    ]
    mounts: list[dict[str, Any]] = [
        {"name": "spec", "mountPath": SPEC_FOLDER, "readOnly": True},
        {"name": "tmp", "mountPath": "/tmp"},
        {"name": "shm", "mountPath": "/dev/shm"},
    ]
    if options.claim is not None:
        volumes.append({"name": "shared", "persistentVolumeClaim": {"claimName": options.claim}})
        mounts.append({"name": "shared", "mountPath": options.mount})
    content: dict[str, Any] = {
        "name": container,
        "image": options.image,
        "resources": {"requests": dict(resources), "limits": dict(resources)},
        "securityContext": NOT_ROOT,
        "volumeMounts": mounts,
    }
    if options.secret:
        content["envFrom"] = [{"secretRef": {"name": secret}} for secret in options.secret]
    return {
        "metadata": {"labels": dict(labels)},
        "spec": {
            "automountServiceAccountToken": False,
            "securityContext": {"runAsUser": USER, "runAsGroup": USER, "fsGroup": USER, "runAsNonRoot": True},
            "containers": [content],
            "volumes": volumes,
        },
    }
