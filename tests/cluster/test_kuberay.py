"""The RayJob keeps to the facts of its CRD, may do nothing but compute, and finds its spec and storage."""

import copy
from typing import Any

import pytest
import ray
import yaml

from keystep.cluster.targets import TARGETS
from keystep.cluster.targets.kuberay import state_of
from keystep.cluster.targets.kuberay_options import KubeRayOptions
from keystep.search.spec.loading import load_spec
from tests.cluster.rayjob_facts import RAYJOB, broken

IMAGE = "registry.example/keystep:0.1.0"


def documents(**options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The ConfigMap and the RayJob."""
    spec = load_spec("sd14", ["storage.path=/mnt/keystep/runs", "tracking.uri=http://mlflow:5000"])
    given = KubeRayOptions(**({"image": IMAGE, "claim": "shared", "secret": ("hub", "mlflow")} | options))
    config, job = yaml.safe_load_all(TARGETS["kuberay"].plan(spec, given).text)
    return config, job


def pods(job: dict[str, Any]) -> dict[str, dict[str, Any]]:
    cluster = job["spec"]["rayClusterSpec"]
    (workers,) = cluster["workerGroupSpecs"]
    templates = cluster["headGroupSpec"], workers
    return {
        "head": templates[0]["template"]["spec"],
        "worker": templates[1]["template"]["spec"],
        "submitter": job["spec"]["submitterPodTemplate"]["spec"],
    }


@pytest.mark.parametrize("options", [{}, {"gpus": 0, "secret": ()}, {"nodes": 64, "gpus": 8, "mount": "/mnt"}])
def test_the_rayjob_keeps_to_the_facts_of_the_crd(options: dict[str, Any]) -> None:
    assert broken(documents(**options)[1], RAYJOB) == []


def test_the_facts_tell_a_wrong_manifest() -> None:
    _, job = documents()
    wrong = copy.deepcopy(job)
    wrong["spec"]["backoffLimit"] = "3"
    wrong["spec"]["shutdownAfterFinish"] = wrong["spec"].pop("shutdownAfterJobFinishes")
    group = wrong["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    del group["minReplicas"]
    group["rayStartParams"]["num-cpus"] = 8
    group["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"] = "32 GB"
    group_path = ".spec.rayClusterSpec.workerGroupSpecs[0]"
    assert set(broken(wrong, RAYJOB)) == {
        ".spec: there is no field shutdownAfterFinish",
        ".spec.backoffLimit: '3' is no int",
        f"{group_path}: lacks minReplicas",
        f"{group_path}.rayStartParams.num-cpus: 8 is no str",
        f"{group_path}.template.spec.containers[0].resources.limits.memory: '32 GB' is no quantity",
    }


def test_the_job_ends_its_cluster_and_is_tried_again() -> None:
    _, job = documents(retries=5, keep_seconds=60)
    spec = job["spec"]
    assert (spec["backoffLimit"], spec["shutdownAfterJobFinishes"], spec["ttlSecondsAfterFinished"]) == (5, True, 60)
    file = "/etc/keystep/spec.yaml"
    assert spec["entrypoint"] == f"keystep doctor {file} && keystep search {file}"


def test_gpus_and_limits_are_the_workers() -> None:
    _, job = documents(nodes=3, gpus=2, cpus=16, memory="64Gi")
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert {group["replicas"], group["minReplicas"], group["maxReplicas"]} == {3}
    wanted = {"cpu": "16", "memory": "64Gi", "nvidia.com/gpu": "2"}
    resources = {name: pod["containers"][0]["resources"] for name, pod in pods(job).items()}
    assert resources["worker"] == {"requests": wanted, "limits": wanted}
    assert all(each["limits"].keys() >= {"cpu", "memory"} for each in resources.values())
    assert "nvidia.com/gpu" not in resources["head"]["limits"]
    assert job["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


@pytest.mark.parametrize("pod", ["head", "worker", "submitter"])
def test_pods_meet_the_restricted_pod_security_standard(pod: str) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/, restricted."""
    content = pods(documents()[1])[pod]
    assert content["securityContext"]["runAsNonRoot"] is True and content["securityContext"]["runAsUser"] > 0
    assert content["automountServiceAccountToken"] is False
    assert not content.keys() & {"hostNetwork", "hostPID", "hostIPC"}
    assert all(volume.keys() & {"configMap", "emptyDir", "persistentVolumeClaim"} for volume in content["volumes"])
    for container in content["containers"]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False and context["runAsNonRoot"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["envFrom"] == [{"secretRef": {"name": "hub"}}, {"secretRef": {"name": "mlflow"}}]


def test_every_mount_has_its_volume_and_the_spec_is_where_it_is_looked_for() -> None:
    config, job = documents()
    assert config["metadata"] == job["metadata"]
    for pod in pods(job).values():
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounts["/etc/keystep"]["configMap"]["name"] == config["metadata"]["name"]
        assert mounts["/mnt/keystep"]["persistentVolumeClaim"]["claimName"] == "shared"
    assert list(config["data"]) == ["spec.yaml"]


def test_ray_asks_for_a_token_and_is_the_version_that_the_image_has() -> None:
    cluster = documents()[1]["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["rayVersion"] == ray.__version__


@pytest.mark.parametrize(
    ("status", "phase"),
    [
        ({}, "waiting"),
        ({"jobDeploymentStatus": "Initializing"}, "waiting"),
        ({"jobDeploymentStatus": "Retrying"}, "waiting"),
        ({"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}, "running"),
        ({"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}, "ended"),
        ({"jobDeploymentStatus": "Failed", "reason": "AppFailed"}, "ended"),
        ({"jobDeploymentStatus": "ValidationFailed", "reason": "ValidationFailed"}, "ended"),
    ],
)
def test_the_state_is_that_of_the_rayjob(status: dict[str, str], phase: str) -> None:
    assert state_of(status).phase == phase
