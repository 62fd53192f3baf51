"""How MLflow's user interface shows a search at first: which columns its table has, and where the page is."""

import json
from collections.abc import Mapping
from urllib.parse import urlencode

VIEW = "keystep"
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
"""Tag of an experiment that MLflow keeps a shared view of its table in."""
COLUMNS = (
    "metrics.`tiam`",
    "metrics.`held_out/tiam`",
    "params.`timestep`",
    "params.`step_index`",
    "params.`iterations`",
    "params.`iou`",
    "params.`gsng`",
    "tags.`keystep.state`",
)


def view_state() -> str:
    """The value of `VIEW_TAG`: searches with their trials under them, the newest first."""
    return json.dumps({"selectedColumns": COLUMNS, "orderByKey": "attributes.start_time", "orderByAsc": False})


def runs_page(address: str, experiment_id: str, tags: Mapping[str, str]) -> str:
    """The address of an experiment's table of runs, in its view if it has one; `tags` are the experiment's."""
    query = {"viewStateShareKey": VIEW} if VIEW_TAG in tags else {}
    query["workflowType"] = "machine_learning"  # the other one, for language models, hides parameters
    return f"{address.rstrip('/')}/#/experiments/{experiment_id}/runs?{urlencode(query)}"
