"""What a user may ask of Kubernetes."""

from typing import Annotated

from pydantic import Field

from keystep.cluster.targets.base import MAX_CPUS, MAX_GPUS, MAX_NODES, Folder, Image, Label, Options, words
from keystep.core.frozen import FromList

MOUNT = "/mnt/keystep"
Quantity = Annotated[str, words(r"[1-9]\d*(Mi|Gi|Ti|M|G|T)", "a size such as 32Gi")]


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
