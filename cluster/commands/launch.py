"""`keystep launch`: run a search on this machine, on a Ray cluster, Kubernetes, Slurm or cloud machines."""

from typing import Annotated, Any

import typer
from rich.console import Console

from keystep.search.commands.options import Overrides, SpecArgument


def _option(help: str, panel: str | None = None, **more: Any) -> Any:
    return typer.Option(help=help, rich_help_panel=panel, show_default=False, **more)


_RAY, _NODES, _KUBERAY = "Target ray", "Targets kuberay, slurm, cloud", "Target kuberay"
_SLURM, _CLOUD = "Target slurm", "Target cloud"


def launch(
    spec: SpecArgument,
    target: Annotated[str, typer.Option(help="Where to run it: local, ray, kuberay, slurm or cloud.")],
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print exactly what would be submitted, and submit nothing.")
    ] = False,
    skip_doctor: Annotated[
        bool, typer.Option("--skip-doctor", help="Search at once, without keystep doctor there before it.")
    ] = False,
    address: Annotated[
        str | None,
        _option("The cluster's dashboard. [default: RAY_API_SERVER_ADDRESS, else http://127.0.0.1:8265]", _RAY),
    ] = None,
    working_dir: Annotated[
        str | None, _option("A folder to send along, with prompt files in it.", _RAY, metavar="DIR")
    ] = None,
    env: Annotated[
        list[str] | None,
        _option("An environment variable the search needs there, by its name. Repeatable.", "Targets ray, slurm"),
    ] = None,
    nodes: Annotated[int | None, _option("Machines. [default: 1; cloud: 4 at most]", _NODES, min=1)] = None,
    gpus: Annotated[int | None, _option("GPUs of each machine. [default: 1]", _NODES, min=0)] = None,
    cpus: Annotated[
        int | None, _option("CPUs of each machine. [default: 8; slurm: all of them]", _NODES, min=1)
    ] = None,
    memory: Annotated[
        str | None,
        _option(
            "Memory of each machine, such as 64Gi (slurm: 64G). [default: 32Gi; slurm: the partition's]",
            "Targets kuberay, slurm",
        ),
    ] = None,
    image: Annotated[
        str | None, _option("An image with keystep, built from cluster/templates/Dockerfile.", "Targets kuberay, cloud")
    ] = None,
    namespace: Annotated[str | None, _option("Where the RayJob is made. [default: default]", _KUBERAY)] = None,
    claim: Annotated[str | None, _option("A PersistentVolumeClaim that all pods share.", _KUBERAY)] = None,
    mount: Annotated[str | None, _option("Where the pods mount the claim. [default: /mnt/keystep]", _KUBERAY)] = None,
    secret: Annotated[
        list[str] | None, _option("A Secret whose keys become environment variables. Repeatable.", _KUBERAY)
    ] = None,
    retries: Annotated[
        int | None, _option("How often a job that failed is tried again. [default: 3]", _KUBERAY, min=0)
    ] = None,
    keep_seconds: Annotated[
        int | None, _option("How long an ended cluster stays, for its logs. [default: 600]", _KUBERAY, min=0)
    ] = None,
    time: Annotated[
        str | None, _option("Time limit, after which the job goes back into the queue. [default: 08:00:00]", _SLURM)
    ] = None,
    partition: Annotated[
        str | None, _option("Partition of the job, or several with commas. [default: yours]", _SLURM)
    ] = None,
    account: Annotated[str | None, _option("Account of the job. [default: yours]", _SLURM)] = None,
    qos: Annotated[str | None, _option("Quality of service of the job. [default: the account's]", _SLURM)] = None,
    constraint: Annotated[str | None, _option("Features of the machines, such as 'a100&ib'.", _SLURM)] = None,
    reservation: Annotated[str | None, _option("Reservation that the job runs in.", _SLURM)] = None,
    gpu_type: Annotated[str | None, _option("Kind of the GPUs, such as a100. [default: any]", _SLURM)] = None,
    directive: Annotated[
        list[str] | None,
        _option(
            "Another option of sbatch, such as mail-type=END or gres=gpu:a100:4. Repeatable.",
            _SLURM,
            metavar="KEY[=VALUE]",
        ),
    ] = None,
    setup: Annotated[
        list[str] | None,
        _option("A line to run first, such as 'source ~/venv/bin/activate'. Repeatable.", "Targets slurm, cloud"),
    ] = None,
    provider: Annotated[str | None, _option("aws or gcp.", _CLOUD)] = None,
    region: Annotated[
        str | None, _option("Region of the machines. [default: us-west-2 (aws), us-west1 (gcp)]", _CLOUD)
    ] = None,
    zone: Annotated[
        str | None, _option("Zone of the machines. [default: any (aws), the region's a (gcp)]", _CLOUD)
    ] = None,
    project: Annotated[str | None, _option("Id of the Google Cloud project that pays.", _CLOUD)] = None,
    worker_type: Annotated[
        str | None,
        _option(
            "Type of the spot machines, which do the work. [default: g6.2xlarge (aws), g2-standard-8 (gcp)]", _CLOUD
        ),
    ] = None,
    head_type: Annotated[
        str | None,
        _option("Type of the machine that drives the search. [default: m6i.xlarge (aws), n2-standard-4 (gcp)]", _CLOUD),
    ] = None,
    machine_image: Annotated[
        str | None, _option("AMI or image with Docker and drivers. [default: deep learning]", _CLOUD)
    ] = None,
    idle_minutes: Annotated[
        int | None, _option("Minutes after which a spot machine without work goes. [default: 5]", _CLOUD, min=1)
    ] = None,
) -> None:
    """Run a search on other machines, or with all of this one. The same command again goes on where it stopped.

    Examples:

    ```
    keystep launch shapes-sd --target local
    keystep launch sd14 --target ray --address http://head:8265 \\
        --set storage.path=/shared/runs --set tracking.uri=
    keystep launch sd14 --target kuberay --nodes 8 \\
        --image registry.example/keystep:0.1.0 \\
        --set storage.path=s3://bucket/runs \\
        --set tracking.uri=http://mlflow:5000 --dry-run
    keystep launch sd14 --target slurm --nodes 4 --gpus 8 --partition gpu \\
        --setup "source ~/venv/bin/activate"
    keystep launch sd14 --target cloud --provider aws --nodes 16 \\
        --image registry.example/keystep:0.1.0 \\
        --set storage.path=s3://bucket/runs \\
        --set tracking.uri=http://mlflow:5000
    ```

    `keystep doctor` runs first, there. Then `keystep status`, `keystep logs --follow` and `keystep stop` with the
    search's id or name. Secrets are named (`--env`, `--secret`) and never sent: what --dry-run prints is all that is
    sent.
    """
    given = {name: value for name, value in locals().items() if value is not None}
    for name in ("spec", "target", "overrides", "dry_run"):
        given.pop(name, None)

    from keystep.cluster.launching.launch import launch as submit
    from keystep.cluster.launching.launch import options_of, spec_to_launch
    from keystep.cluster.targets import TARGETS

    options = options_of(target, given)
    loaded = spec_to_launch(spec, overrides or [])
    submission = TARGETS[target].plan(loaded, options)
    if dry_run:
        print(submission.text, end="")
        return
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    search_id = loaded.search_id
    console.print(f"Search {loaded.name} ({search_id}) -> {submission.through}", markup=False)
    made = submit(loaded, target, submission)
    if TARGETS[target].keeps_going:
        told = ", ".join(f"{key} {value}" for key, value in made.handle.items())
        console.print(f"Submitted: {told}", markup=False)
        console.print(f"  keystep status {search_id}\n  keystep logs {search_id} --follow", markup=False)
        console.print(f"  keystep stop {search_id}", markup=False)
