"""`keystep launch`: run a search on this machine, on a Ray cluster, Kubernetes, Slurm or cloud machines."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from keystep.cluster.commands import launch_options as options
from keystep.search.commands.options import Overrides, SpecArgument


def launch(
    spec: SpecArgument,
    target: options.Target,
    overrides: Overrides = None,
    dry_run: options.DryRun = False,
    skip_doctor: options.SkipDoctor = False,
    address: options.Address = None,
    working_dir: options.WorkingDir = None,
    env: options.EnvironmentNames = None,
    nodes: options.Nodes = None,
    gpus: options.Gpus = None,
    cpus: options.Cpus = None,
    memory: options.Memory = None,
    image: options.Image = None,
    namespace: options.Namespace = None,
    claim: options.Claim = None,
    mount: options.Mount = None,
    secret: options.Secret = None,
    retries: options.Retries = None,
    keep_seconds: options.KeepSeconds = None,
    time: options.TimeLimit = None,
    partition: options.Partition = None,
    account: options.Account = None,
    qos: options.Qos = None,
    constraint: options.Constraint = None,
    reservation: options.Reservation = None,
    gpu_type: options.GpuType = None,
    directive: options.Directive = None,
    setup: options.Setup = None,
    provider: options.Provider = None,
    region: options.Region = None,
    zone: options.Zone = None,
    project: options.Project = None,
    worker_type: options.WorkerType = None,
    head_type: options.HeadType = None,
    machine_image: options.MachineImage = None,
    idle_minutes: options.IdleMinutes = None,
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
    _launch(spec, overrides or [], target, given, dry_run=dry_run)


def _launch(spec: str, overrides: list[str], target: str, given: Mapping[str, Any], *, dry_run: bool) -> None:
    """Plan the search for the target; then print the plan, or submit it and say how to follow it."""
    from keystep.cluster.launching.launch import launch as submit
    from keystep.cluster.launching.launch import options_of, spec_to_launch
    from keystep.cluster.targets import TARGETS

    chosen = options_of(target, given)
    loaded = spec_to_launch(spec, overrides)
    submission = TARGETS[target].plan(loaded, chosen)
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
