"""A step config as an MLflow model: logged with the code it needs, registered, served by `mlflow models serve`."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

import keystep
import keystep.core
from keystep.core.config import StepConfig
from keystep.core.shapes.models import EMBEDDED
from keystep.search.spec.search_spec import SearchSpec
from keystep.search.storing.secrets import MASK, masked
from keystep.search.tracking.mlflow_store import ATTEMPT_TAG, SEARCH_TAG, MlflowStore
from keystep.search.tracking.run_fields import experiment_name
from keystep.search.tracking.tracking_uri import VARIABLE, named_uri

# What keystep/__init__.py and core/ import, and MLflow itself; pinned to the versions at hand.
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
        store: MLFLOW_TRACKING_URI for them, passwords masked.
    """

    name: str
    version: int
    alias: str | None
    uri: str
    store: str


def register(
    config: StepConfig,
    name: str,
    spec: SearchSpec,
    *,
    alias: str | None = None,
    uri: str | None = None,
    description: str = "",
) -> Registered:
    """Log a step config as a pyfunc model and register it as a new version.

    The model is `search/shipping/step_model.py` run as it stands ("models from code"), the config as JSON, and of this
    `keystep` what it exports, with `keystep.core`; no object is pickled. It needs no keystep where it is served.
    Embedded weights go along if the config is for an embedded model, any other model is loaded from where its config
    says.

    Args:
        config: what to serve.
        name: of the registered model; made if it is new.
        spec: of the search it came out of: its experiment and store are used, its run is told.
        alias: pointed at the new version, such as "production".
        uri: of MLflow, instead of the spec's.
        description: of the version.

    Raises:
        ValueError: MLflow cannot be reached or refuses the name or alias; says what it said.
    """
    before = mlflow.get_tracking_uri()
    store = _store(spec, uri)
    tags = {SEARCH_TAG: spec.search_id}
    mlflow.set_tracking_uri(store)
    try:
        experiment = MlflowStore(store, experiment_name(spec), spec.tracking.artifact_location).experiment_id
        mlflow.set_experiment(experiment_id=experiment)
        with _files(config) as folder:
            logged = mlflow.pyfunc.log_model(
                name="step_model",
                python_model=str(Path(__file__).with_name("step_model.py")),
                artifacts={ARTIFACT: str(folder / "step_config.json")},
                code_paths=[str(folder / "keystep")],
                pip_requirements=_requirements(),
                tags=tags,
            )
        made = mlflow.register_model(logged.model_uri, name, tags=tags)
        client = MlflowClient()
        client.update_model_version(name, made.version, description)
        if alias is not None:
            client.set_registered_model_alias(name, alias, made.version)
        conditions = f"tags.`{SEARCH_TAG}` = '{spec.search_id}' and tags.`{ATTEMPT_TAG}` != ''"
        for run in client.search_runs([experiment], conditions, max_results=1):  # the newest
            client.set_tag(run.info.run_id, "keystep.registered_model", f"{name}, version {made.version}")
    except (MlflowException, SQLAlchemyError) as error:
        raise ValueError(f"MLflow at {masked(store)} did not register {name!r}: {masked(str(error))}") from error
    finally:
        mlflow.set_tracking_uri(before)
    version = int(made.version)
    served = f"models:/{name}@{alias}" if alias else f"models:/{name}/{version}"
    return Registered(name, version, alias, served, masked(store))


def _store(spec: SearchSpec, uri: str | None) -> str:
    given = uri or (spec.tracking.uri if MASK not in (spec.tracking.uri or "") else os.environ.get(VARIABLE))
    if given or spec.tracking.uri is None:
        return named_uri(given)
    raise ValueError(
        f"the search was tracked in {spec.tracking.uri}, whose password is not kept: give the whole address with "
        "--tracking-uri or in MLFLOW_TRACKING_URI"
    )


@contextmanager
def _files(config: StepConfig) -> Iterator[Path]:
    """A folder with the config and the code; of the embedded weights only those the config is for."""
    others = (folder.name for name, folder in EMBEDDED.items() if name != config.model)
    unwanted = shutil.ignore_patterns("__pycache__", *others)
    with tempfile.TemporaryDirectory(prefix="keystep-model-") as place:
        folder = Path(place)
        config.save(folder / "step_config.json")
        shutil.copytree(Path(str(keystep.core.__file__)).parent, folder / "keystep" / "core", ignore=unwanted)
        shutil.copy(str(keystep.__file__), folder / "keystep")
        yield folder


def _requirements() -> list[str]:
    """The packages with the versions at hand, without the mark of a build (2.11.0+cpu is on no index)."""
    return [f"{package}=={metadata.version(package).split('+')[0]}" for package in PACKAGES]
