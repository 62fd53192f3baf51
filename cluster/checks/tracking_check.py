"""Whether a spec's MLflow takes what is written to it: a tag, set, read and removed again."""

import uuid
from typing import TYPE_CHECKING

from keystep.search.spec.search_spec import SearchSpec
from keystep.search.storing.secrets import masked
from keystep.search.tracking.run_fields import experiment_name
from keystep.search.tracking.sender import probe, set_up_mlflow
from keystep.search.tracking.sqlite_store import make_ready
from keystep.search.tracking.tracking_uri import sqlite_file, tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

DEFAULT_EXPERIMENT = "0"


def tracking_trouble(spec: SearchSpec) -> str:
    """Why the store cannot be written to; empty if it can. Nothing is left in it.

    The tag is that of the spec's experiment, or, before there is one, of MLflow's own default experiment. A file of
    SQLite that does not exist yet is not made: its folder is tried.
    """
    set_up_mlflow()
    import requests
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    uri = tracking_uri(spec)
    file = sqlite_file(uri)
    try:
        if file is not None and not file.exists():
            attempt = file.with_name(f".probe-{uuid.uuid4().hex}")
            attempt.touch()
            attempt.unlink()
            return ""
        make_ready(uri)
        probe(uri)
        return _tag(MlflowClient(tracking_uri=uri), experiment_name(spec))
    except (MlflowException, SQLAlchemyError, requests.RequestException, OSError, ImportError) as error:
        lines = masked(str(error)).splitlines()
        return lines[0][:300] if lines else type(error).__name__


def _tag(client: "MlflowClient", name: str) -> str:
    experiment = client.get_experiment_by_name(name)
    place = DEFAULT_EXPERIMENT if experiment is None else experiment.experiment_id
    key, value = f"keystep.doctor.{uuid.uuid4().hex}", uuid.uuid4().hex
    client.set_experiment_tag(place, key, value)
    try:
        kept = client.get_experiment(place).tags.get(key)
    finally:
        client.delete_experiment_tag(place, key)
    if kept != value:
        return "it does not keep what is written to it"
    return "it does not remove what is to be deleted" if key in client.get_experiment(place).tags else ""
