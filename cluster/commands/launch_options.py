"""What `keystep launch` can be asked: an option of the command line each, with the targets that it is for."""

from typing import Annotated, Any

import typer


def _option(help: str, panel: str | None = None, **more: Any) -> Any:
    return typer.Option(help=help, rich_help_panel=panel, show_default=False, **more)


_RAY, _NODES, _KUBERAY = "Target ray", "Targets kuberay, slurm, cloud", "Target kuberay"
_SLURM, _CLOUD = "Target slurm", "Target cloud"

Target = Annotated[str, typer.Option(help="Where to run it: local, ray, kuberay, slurm or cloud.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print exactly what would be submitted, and submit nothing.")]
SkipDoctor = Annotated[
    bool, typer.Option("--skip-doctor", help="Search at once, without keystep doctor there before it.")
]
Address = Annotated[
    str | None,
    _option("The cluster's dashboard. [default: RAY_API_SERVER_ADDRESS, else http://127.0.0.1:8265]", _RAY),
]
WorkingDir = Annotated[str | None, _option("A folder to send along, with prompt files in it.", _RAY, metavar="DIR")]
EnvironmentNames = Annotated[
    list[str] | None,
    _option("An environment variable the search needs there, by its name. Repeatable.", "Targets ray, slurm"),
]
Nodes = Annotated[int | None, _option("Machines. [default: 1; cloud: 4 at most]", _NODES, min=1)]
Gpus = Annotated[int | None, _option("GPUs of each machine. [default: 1]", _NODES, min=0)]
Cpus = Annotated[int | None, _option("CPUs of each machine. [default: 8; slurm: all of them]", _NODES, min=1)]
Memory = Annotated[
    str | None,
    _option(
        "Memory of each machine, such as 64Gi (slurm: 64G). [default: 32Gi; slurm: the partition's]",
        "Targets kuberay, slurm",
    ),
]
Image = Annotated[
    str | None, _option("An image with keystep, built from cluster/templates/Dockerfile.", "Targets kuberay, cloud")
]
Namespace = Annotated[str | None, _option("Where the RayJob is made. [default: default]", _KUBERAY)]
Claim = Annotated[str | None, _option("A PersistentVolumeClaim that all pods share.", _KUBERAY)]
Mount = Annotated[str | None, _option("Where the pods mount the claim. [default: /mnt/keystep]", _KUBERAY)]
Secret = Annotated[list[str] | None, _option("A Secret whose keys become environment variables. Repeatable.", _KUBERAY)]
Retries = Annotated[int | None, _option("How often a job that failed is tried again. [default: 3]", _KUBERAY, min=0)]
KeepSeconds = Annotated[
    int | None, _option("How long an ended cluster stays, for its logs. [default: 600]", _KUBERAY, min=0)
]
TimeLimit = Annotated[
    str | None, _option("Time limit, after which the job goes back into the queue. [default: 08:00:00]", _SLURM)
]
Partition = Annotated[str | None, _option("Partition of the job, or several with commas. [default: yours]", _SLURM)]
Account = Annotated[str | None, _option("Account of the job. [default: yours]", _SLURM)]
Qos = Annotated[str | None, _option("Quality of service of the job. [default: the account's]", _SLURM)]
Constraint = Annotated[str | None, _option("Features of the machines, such as 'a100&ib'.", _SLURM)]
Reservation = Annotated[str | None, _option("Reservation that the job runs in.", _SLURM)]
GpuType = Annotated[str | None, _option("Kind of the GPUs, such as a100. [default: any]", _SLURM)]
Directive = Annotated[
    list[str] | None,
    _option(
        "Another option of sbatch, such as mail-type=END or gres=gpu:a100:4. Repeatable.",
        _SLURM,
        metavar="KEY[=VALUE]",
    ),
]
Setup = Annotated[
    list[str] | None,
    _option("A line to run first, such as 'source ~/venv/bin/activate'. Repeatable.", "Targets slurm, cloud"),
]
Provider = Annotated[str | None, _option("aws or gcp.", _CLOUD)]
Region = Annotated[str | None, _option("Region of the machines. [default: us-west-2 (aws), us-west1 (gcp)]", _CLOUD)]
Zone = Annotated[str | None, _option("Zone of the machines. [default: any (aws), the region's a (gcp)]", _CLOUD)]
Project = Annotated[str | None, _option("Id of the Google Cloud project that pays.", _CLOUD)]
WorkerType = Annotated[
    str | None,
    _option("Type of the spot machines, which do the work. [default: g6.2xlarge (aws), g2-standard-8 (gcp)]", _CLOUD),
]
HeadType = Annotated[
    str | None,
    _option("Type of the machine that drives the search. [default: m6i.xlarge (aws), n2-standard-4 (gcp)]", _CLOUD),
]
MachineImage = Annotated[str | None, _option("AMI or image with Docker and drivers. [default: deep learning]", _CLOUD)]
IdleMinutes = Annotated[
    int | None, _option("Minutes after which a spot machine without work goes. [default: 5]", _CLOUD, min=1)
]
