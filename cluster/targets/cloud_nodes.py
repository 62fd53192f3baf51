"""What AWS and Google Cloud call a machine: the on-demand head, and the spot machines that do the work."""

from dataclasses import dataclass
from typing import Any

from keystep.cluster.targets.cloud_options import CloudOptions

HEAD_DISK, WORKER_DISK = 100, 200  # gigabytes; the image and the models need some


@dataclass(frozen=True)
class Provider:
    """What is usual with a cloud.

    Attributes:
        region, head_type, worker_type: used if none is given. The worker has one L4 and 8 cores.
        scheme: of addresses of its object store.
        package: that Ray's launcher imports.
    """

    region: str
    head_type: str
    worker_type: str
    scheme: str
    package: str


PROVIDERS = {
    "aws": Provider("us-west-2", "m6i.xlarge", "g6.2xlarge", "s3", "boto3"),
    "gcp": Provider("us-west1", "n2-standard-4", "g2-standard-8", "gs", "googleapiclient"),
}
GCP_IMAGE = "projects/deeplearning-platform-release/global/images/family/common-cu128-ubuntu-2204-nvidia-570"


def provider_section(options: CloudOptions) -> dict[str, Any]:
    """`provider` of the launcher's configuration."""
    region = options.region or PROVIDERS[options.provider].region
    section: dict[str, Any] = {"type": options.provider, "region": region}
    if options.provider == "gcp":
        section |= {"availability_zone": options.zone or f"{region}-a", "project_id": options.project}
    else:
        section["cache_stopped_nodes"] = False  # stopped machines would go on costing their disks
        if options.zone:
            section["availability_zone"] = options.zone
    return section


def node_types(options: CloudOptions) -> tuple[dict[str, Any], dict[str, Any]]:
    """Head and spot machines, as `available_node_types` has them. The head offers no CPU: it drives the search."""
    usual = PROVIDERS[options.provider]
    head_type, worker_type = options.head_type or usual.head_type, options.worker_type or usual.worker_type
    make = _gcp if options.provider == "gcp" else _aws
    head = make(head_type, HEAD_DISK, options.machine_image, spot=False)
    worker = make(worker_type, WORKER_DISK, options.machine_image, spot=True)
    resources = {"CPU": options.cpus} | ({"GPU": options.gpus} if options.gpus else {})
    return (
        {"resources": {"CPU": 0}, "node_config": head},
        {"resources": resources, "min_workers": 0, "max_workers": options.nodes, "node_config": worker},
    )


def _aws(kind: str, disk: int, image: str | None, *, spot: bool) -> dict[str, Any]:
    config: dict[str, Any] = {
        "InstanceType": kind,
        "BlockDeviceMappings": [
            {"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": disk, "VolumeType": "gp3", "Encrypted": True}}
        ],
        "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 2},  # 2: asked from a container
    }
    if image:
        config["ImageId"] = image
    if spot:
        config["InstanceMarketOptions"] = {"MarketType": "spot"}
    return config


def _gcp(kind: str, disk: int, image: str | None, *, spot: bool) -> dict[str, Any]:
    parameters = {"diskSizeGb": disk, "sourceImage": image or GCP_IMAGE}
    config: dict[str, Any] = {
        "machineType": kind,
        "disks": [{"boot": True, "autoDelete": True, "type": "PERSISTENT", "initializeParams": parameters}],
    }
    if spot:
        config["scheduling"] = [{"preemptible": True}, {"onHostMaintenance": "TERMINATE"}]
    return config
