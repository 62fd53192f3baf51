"""The places where a search can run, one file each."""

from keystep.cluster.targets.base import Handle, Options, State, Submission, Target
from keystep.cluster.targets.cloud import Cloud
from keystep.cluster.targets.kuberay import KubeRay
from keystep.cluster.targets.local import Local
from keystep.cluster.targets.ray_jobs import RayJobs
from keystep.cluster.targets.slurm import Slurm

TARGETS: dict[str, Target] = {
    "local": Local(),
    "ray": RayJobs(),
    "kuberay": KubeRay(),
    "slurm": Slurm(),
    "cloud": Cloud(),
}
"""Every target by its name; a new one is a new file, a line here, and options in
`keystep.cluster.commands.launch_options` that `launch` takes."""

__all__ = ["TARGETS", "Handle", "Options", "State", "Submission", "Target"]
