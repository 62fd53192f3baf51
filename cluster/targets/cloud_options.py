"""What a user may ask of AWS or Google Cloud."""

from typing import Annotated, Literal

from pydantic import Field

from keystep.cluster.targets.base import MAX_CPUS, MAX_GPUS, MAX_NODES, Image, Line, Name, Options
from keystep.core.frozen import FromList


class CloudOptions(Options):
    """What is asked of the cloud.

    Args:
        provider: aws or gcp.
        image: with keystep in it, built from cluster/templates/Dockerfile, which the machines can pull.
        region: None is us-west-2 (aws), us-west1 (gcp).
        zone: None is any of the region (aws), its zone a (gcp).
        project: of Google Cloud.
        nodes: spot machines at most; none runs while there is nothing to do.
        gpus: of each spot machine.
        cpus: of each spot machine.
        worker_type: of the spot machines; None is one with an L4 and 8 cores.
        head_type: of the on-demand machine that drives the search; None is one with 4 cores.
        machine_image: an AMI or a Google Cloud image with Docker and drivers; None is a deep learning image.
        idle_minutes: after which a spot machine without work goes.
        setup: lines that run on every machine, in its container, before Ray starts.
    """

    provider: Literal["aws", "gcp"]
    image: Image
    region: Name | None = None
    zone: Name | None = None
    project: Name | None = None
    nodes: int = Field(default=4, ge=1, le=MAX_NODES)
    gpus: int = Field(default=1, ge=0, le=MAX_GPUS)
    cpus: int = Field(default=8, ge=1, le=MAX_CPUS)
    worker_type: Name | None = None
    head_type: Name | None = None
    machine_image: Line | None = None
    idle_minutes: int = Field(default=5, ge=1, le=10**6)
    setup: Annotated[tuple[Line, ...], FromList] = ()
