"""What the CRD of a RayJob says of the fields that keystep writes: name, type, and whether it must be there.

Source: ray-project/kuberay, helm-chart/kuberay-operator/crds/ray.io_rayjobs.yaml and the Go types that it is made of
(ray-operator/apis/ray/v1/rayjob_types.go, raycluster_types.go), `authOptions` from KubeRay 1.5.1 on. Pods, volumes and
security contexts are Kubernetes' own core/v1.

A type is a Python type, `Quantity`, a set of the allowed values, `[item]`, a mapping of fields, or `{...: value type}`
for free keys. A field that must be there ends in `!`.
"""

import re
from typing import Any

QUANTITY = re.compile(r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?[0-9]+))?$")
FREE = ...


class Quantity:
    """An integer, or a text such as 500m or 32Gi."""


METADATA = {"name": str, "namespace": str, "labels": {FREE: str}}
CONTAINER = {
    "name!": str,
    "image": str,
    "resources": {"requests": {FREE: Quantity}, "limits": {FREE: Quantity}},
    "securityContext": {
        "allowPrivilegeEscalation": bool,
        "capabilities": {"drop": [str], "add": [str]},
        "privileged": bool,
        "runAsNonRoot": bool,
        "seccompProfile": {"type!": {"RuntimeDefault", "Localhost", "Unconfined"}, "localhostProfile": str},
    },
    "volumeMounts": [{"name!": str, "mountPath!": str, "readOnly": bool, "subPath": str}],
    "envFrom": [{"secretRef": {"name": str, "optional": bool}, "prefix": str}],
    "env": [{"name!": str, "value": str, "valueFrom": {"secretKeyRef": {"name": str, "key!": str}}}],
}
POD_TEMPLATE = {
    "metadata": METADATA,
    "spec": {
        "containers!": [CONTAINER],
        "volumes": [
            {
                "name!": str,
                "configMap": {"name": str},
                "emptyDir": {"medium": str, "sizeLimit": Quantity},
                "persistentVolumeClaim": {"claimName!": str, "readOnly": bool},
            }
        ],
        "automountServiceAccountToken": bool,
        "restartPolicy": {"Always", "OnFailure", "Never"},
        "securityContext": {"runAsUser": int, "runAsGroup": int, "fsGroup": int, "runAsNonRoot": bool},
    },
}
RAYJOB = {
    "apiVersion!": {"ray.io/v1"},
    "kind!": {"RayJob"},
    "metadata!": METADATA,
    "spec!": {
        "entrypoint": str,
        "metadata": {FREE: str},
        "jobId": str,
        "runtimeEnvYAML": str,
        "submissionMode": {"K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"},
        "activeDeadlineSeconds": int,
        "backoffLimit": int,
        "shutdownAfterJobFinishes": bool,
        "ttlSecondsAfterFinished": int,
        "submitterConfig": {"backoffLimit": int},
        "submitterPodTemplate": POD_TEMPLATE,
        "rayClusterSpec": {
            "rayVersion": str,
            "authOptions": {"mode": {"token", "disabled"}, "secretName": str},
            "enableInTreeAutoscaling": bool,
            "headGroupSpec!": {"rayStartParams!": {FREE: str}, "template!": POD_TEMPLATE},
            "workerGroupSpecs": [
                {
                    "groupName!": str,
                    "replicas": int,
                    "minReplicas!": int,
                    "maxReplicas!": int,
                    "numOfHosts": int,
                    "rayStartParams!": {FREE: str},
                    "template!": POD_TEMPLATE,
                }
            ],
        },
    },
}


def broken(value: Any, facts: Any, path: str = "") -> list[str]:
    """Every way in which a manifest does not keep to the facts, each with its place."""
    if facts is Quantity:
        right = isinstance(value, int) or (isinstance(value, str) and QUANTITY.match(value) is not None)
        return [] if right else [f"{path}: {value!r} is no quantity"]
    if isinstance(facts, set):
        return [] if value in facts else [f"{path}: {value!r} is none of {sorted(facts)}"]
    if isinstance(facts, list):
        if not isinstance(value, list):
            return [f"{path}: {value!r} is no list"]
        return [text for place, item in enumerate(value) for text in broken(item, facts[0], f"{path}[{place}]")]
    if isinstance(facts, dict):
        return _broken_fields(value, facts, path)
    right = isinstance(value, facts) and (facts is bool or not isinstance(value, bool))
    return [] if right else [f"{path}: {value!r} is no {facts.__name__}"]


def _broken_fields(value: Any, facts: dict[Any, Any], path: str) -> list[str]:
    if not isinstance(value, dict):
        return [f"{path}: {value!r} is no mapping"]
    known = {name if name is FREE else name.removesuffix("!"): kind for name, kind in facts.items()}
    lacks = [name[:-1] for name in facts if name is not FREE and name.endswith("!") and name[:-1] not in value]
    found = [f"{path}: lacks {name}" for name in lacks]
    for key, inner in value.items():
        if key not in known and FREE not in known:
            found.append(f"{path}: there is no field {key}")
        else:
            found += broken(inner, known.get(key, known.get(FREE)), f"{path}.{key}")
    return found
