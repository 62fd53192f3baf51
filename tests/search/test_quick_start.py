"""Commands that only print text import nothing that takes seconds; mistakes of a spec are told before Ray starts."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.search.found_search import stored

HEAVY = ("torch", "diffusers", "transformers", "ray", "mlflow", "accelerate")
RUN = f"""
import sys
from keystep.cluster.cli import main
try:
    main()
finally:
    print("imported:", *[name for name in {HEAVY} if name in sys.modules], file=sys.stderr)
"""


def run(folder: Path, *arguments: str) -> tuple[int, str, list[str]]:
    """Exit code, what was printed, and which heavy modules a command line has imported."""
    code = RUN.replace("main()\n", f"sys.argv = ['keystep', *{list(arguments)}]\n    main()\n", 1)
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=120)
    told, _, imported = done.stderr.rpartition("imported:")
    return done.returncode, done.stdout + told, imported.split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with a search that has ended."""
    place = tmp_path_factory.mktemp("place")
    stored(place / "keystep-runs")
    return place


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--help"], "keystep search --out step_config.json"),
        (["search", "--help"], "--print-spec"),
        (["search", "--print-spec", "sd14"], "CompVis/stable-diffusion-v1-4"),
        (["search", "--print-spec", "sdxl", "--set", "search.pruner=MedianPruner"], "MedianPruner"),
        (["report", "tried"], "held-out"),
        (["report", "tried", "--out", "report.md"], "report.md"),
        (["export", "tried", "--out", "step_config.json"], "step_config.json"),
        (["prompts"], "shapes_two"),
        (["ui", "--no-browser", "--uri", "sqlite:///none.db"], "none.db does not exist"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_prints_text_imports_no_models(arguments: list[str], said: str, folder: Path) -> None:
    code, text, imported = run(folder, *arguments)
    assert (code == 2) == ("none.db" in said) and said in text, text
    assert imported == []


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("sampler.scheduler=UniPCMultistepScheduler", "cannot be stopped and resumed"),
        ("sampler.scheduler=DDPM", "did you mean 'DDPMScheduler'? (choose one of DDPMScheduler, DDIMScheduler"),
        ("space.steps=[12]", "space.steps.0: step index 12 is outside the schedule: DDPMScheduler has steps 0..11"),
        ("space.gsng=[{start: 3, stop: 40}]", "space.gsng.0: start 3 and stop 40 name no steps"),
        ("prompts.sets=[two]", "detector keystep/shapes-segmenter cannot see 'bicycle'"),
        ("detector.id=foo:bar", "unknown kind of detector 'foo'"),
        ("model.id=/nowhere/model", "model.id: there is no /nowhere/model here"),
        ("model.id=keystep/shapes-sdd", "no embedded model 'keystep/shapes-sdd'"),
        ("storage.path=s4://bucket/prefix", "s4://bucket/prefix cannot be used"),
        ("search.pruner=PatientPruner", "search.pruner PatientPruner"),
    ],
)
def test_a_mistake_of_the_spec_is_told_before_anything_is_loaded(override: str, said: str, folder: Path) -> None:
    code, text, imported = run(folder, "search", "--set", override)
    assert code == 2 and said in " ".join(text.split()), text
    assert imported == [] and "Traceback" not in text


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("space.timesteps=[820]", "space.timesteps: 820 is not in the schedule; the nearest is 831"),
        ("sampler.scheduler_config.beta_schedule=x", "sampler.scheduler: DDPMScheduler cannot be set so"),
        ("model.device=gpu0", "model.device: 'gpu0' is no device"),
    ],
)
def test_a_mistake_that_torch_knows_is_told_before_ray_starts(override: str, said: str, folder: Path) -> None:
    code, text, imported = run(folder, "search", "--set", override)
    assert code == 2 and said in " ".join(text.split()), text
    assert "ray" not in imported and "mlflow" not in imported
