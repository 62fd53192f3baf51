"""What a search has cost: each number with one name and one meaning, in result.json, the report and MLflow."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SearchCosts:
    """The costs of a search, all of its runs together.

    The names are those of result.json, and with `cost/` before them those of MLflow's metrics. A denoiser evaluation is
    one sample through the denoiser once; a shift of the latents counts as two.

    Attributes:
        evaluations_spent: denoiser evaluations, the baseline's and the held-out prompts' included.
        evaluations_plain: what the plain way would have spent: every trial on every instance, each image from noise.
        wall_seconds: that the search ran.
        worker_seconds: of its workers, all together.
        gpu_seconds: `worker_seconds` times the GPUs of a worker.
    """

    evaluations_spent: float
    evaluations_plain: float
    wall_seconds: float = 0.0
    worker_seconds: float = 0.0
    gpu_seconds: float = 0.0

    @property
    def evaluations_saved(self) -> float:
        """The share of the plain way's evaluations that was not spent, at most 1; 0 while there are none."""
        return 1 - self.evaluations_spent / self.evaluations_plain if self.evaluations_plain else 0.0

    @property
    def text(self) -> str:
        """All of it in a sentence."""
        saved = (
            f", {self.evaluations_saved:.0%} less than the {self.evaluations_plain:,.0f} of the plain way"
            if self.evaluations_plain
            else ""
        )
        times = [f"{self.wall_seconds / 60:.1f} minutes of wall time"]
        times += [f"{self.worker_seconds / 60:.1f} minutes of workers' time"] if self.worker_seconds else []
        times += [f"{self.gpu_seconds / 3600:.2f} GPU hours"] if self.gpu_seconds else []
        return (
            f"{self.evaluations_spent:,.0f} denoiser evaluations{saved} (every trial from noise, on every instance); "
            f"{', '.join(times)}."
        )

    def metrics(self) -> dict[str, float]:
        """MLflow's metrics of the search; GPU time only where there are GPUs, wall time only where it is known."""
        values = {
            "evaluations_spent": self.evaluations_spent,
            "evaluations_plain": self.evaluations_plain,
            "evaluations_saved": self.evaluations_saved,
            "worker_seconds": self.worker_seconds,
        }
        values |= {"wall_seconds": self.wall_seconds} if self.wall_seconds else {}
        values |= {"gpu_seconds": self.gpu_seconds} if self.gpu_seconds else {}
        return {f"cost/{name}": value for name, value in values.items()}


def plain_evaluations(alone: float, seen: int, total: int) -> float:
    """Denoiser evaluations of a setting on all instances, from those of the images seen, each alone from noise.

    Args:
        alone: of the images seen together.
        seen, total: instances; nothing is known of a setting that has seen none: 0.
    """
    return alone / seen * total if seen else 0.0
