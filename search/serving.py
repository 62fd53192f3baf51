"""A step config as an MLflow model: logged with the code it needs, registered, served by `mlflow models serve`."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

import core
import keystep
from core.config import StepConfig
from core.shapes.models import EMBEDDED

# What keystep.py and core/ import, and MLflow itself; pinned to the versions at hand.
PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "safetensors",
    "pydantic",
    "numpy",
    "pillow",
    "jaxtyping",
    "mlflow",
)
ARTIFACT = "step_config"


@dataclass(frozen=True)
class Registered:
    """A model in MLflow's registry.

    Attributes:
        name, version: of the registered model.
        alias: it was given; None if none.
        uri: that `mlflow models serve` and `mlflow.pyfunc.load_model` take.
    """

    name: str
    version: int
    alias: str | None
    uri: str


def register(
    config: StepConfig,
    name: str,
    *,
    alias: str | None = None,
    tracking_uri: str | None = None,
    experiment: str | None = None,
    artifact_location: str | None = None,
    run_id: str | None = None,
    tags: Mapping[str, str] | None = None,
    description: str = "",
) -> Registered:
    """Log a step config as a pyfunc model and register it as a new version.

    The model is `search/step_model.py` run as it stands ("models from code"), the config as JSON, and this keystep's
    `core` and `keystep.py`; no object is pickled. It needs no keystep where it is served. Embedded weights go along
    if the config is for an embedded model, any other model is loaded from where its config says.

    Args:
        config: what to serve.
        name: of the registered model; made if it is new.
        alias: pointed at the new version, such as "production".
        tracking_uri: of MLflow; None is MLFLOW_TRACKING_URI or MLflow's own default.
        experiment: by name, that the model is logged in; made if it is new. None is MLflow's default.
        artifact_location: where a new experiment keeps its files; None is the store's own choice.
        run_id: the run it came out of, instead of an experiment; None if there is none.
        tags: of the version.
        description: of the version.

    Raises:
        ValueError: MLflow cannot be reached or refuses the name or alias; says what it said.
    """
    before = mlflow.get_tracking_uri()
    if tracking_uri is not None:
        mlflow.set_tracking_uri(tracking_uri)
    try:
        with _run(experiment, artifact_location, run_id), _files(config) as folder:
            logged = mlflow.pyfunc.log_model(
                name="step_model",
                python_model=str(Path(__file__).with_name("step_model.py")),
                artifacts={ARTIFACT: str(folder / "step_config.json")},
                code_paths=[str(folder / "core"), str(folder / "keystep.py")],
                pip_requirements=_requirements(),
                registered_model_name=name,
            )
        client, version = MlflowClient(), str(logged.registered_model_version)
        if description:
            client.update_model_version(name, version, description)
        for key, value in (tags or {}).items():
            client.set_model_version_tag(name, version, key, value)
        if alias is not None:
            client.set_registered_model_alias(name, alias, version)
    except MlflowException as error:
        raise ValueError(f"MLflow did not register {name!r}: {error.message}") from error
    finally:
        mlflow.set_tracking_uri(before)
    return Registered(name, int(version), alias, f"models:/{name}@{alias}" if alias else f"models:/{name}/{version}")


@contextmanager
def _run(experiment: str | None, artifact_location: str | None, run_id: str | None) -> Iterator[None]:
    if run_id is not None:
        with mlflow.start_run(run_id=run_id):
            yield
        return
    if experiment is not None:
        if mlflow.get_experiment_by_name(experiment) is None:
            mlflow.create_experiment(experiment, artifact_location)
        mlflow.set_experiment(experiment)
    yield


@contextmanager
def _files(config: StepConfig) -> Iterator[Path]:
    """A folder with the config and the code; of the embedded weights only those the config is for."""
    others = (folder.name for name, folder in EMBEDDED.items() if name != config.model)
    unwanted = shutil.ignore_patterns("__pycache__", *others)
    with tempfile.TemporaryDirectory(prefix="keystep-model-") as place:
        folder = Path(place)
        config.save(folder / "step_config.json")
        shutil.copytree(Path(str(core.__file__)).parent, folder / "core", ignore=unwanted)
        shutil.copy(str(keystep.__file__), folder / "keystep.py")
        yield folder


def _requirements() -> list[str]:
    """The packages with the versions at hand, without the mark of a build (2.11.0+cpu is on no index)."""
    return [f"{package}=={metadata.version(package).split('+')[0]}" for package in PACKAGES]
