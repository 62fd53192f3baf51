"""How MLflow's user interface shows a search at first: which columns its table has, and where the page is."""

import json
from collections.abc import Mapping
from urllib.parse import urlencode

VIEW = "keystep"
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
"""Tag of an experiment that MLflow keeps a shared view of its table in."""
KIND_TAG = "mlflow.experimentKind"
"""Tag of an experiment by which MLflow's interface shows runs and charts, or traces and evaluations."""
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


def experiment_tags() -> dict[str, str]:
    """What tells MLflow's interface that an experiment's runs train no language model, and how to show them."""
    return {
        KIND_TAG: "custom_model_development",
        "mlflow.experiment.primaryMetric.name": "tiam",
        "mlflow.experiment.primaryMetric.greaterIsBetter": "true",
        VIEW_TAG: view_state(),
        "mlflow.note.content": "One search a parent run, one setting a child. `tiam` is the share of images "
        "that show all that their prompts ask for, mean over the prompt sets; higher is better.",
    }


def view_state() -> str:
    """The value of `VIEW_TAG`: searches with their trials under them, the newest first."""
    return json.dumps({"selectedColumns": COLUMNS, "orderByKey": "attributes.start_time", "orderByAsc": False})


def runs_page(address: str, experiment_id: str, tags: Mapping[str, str]) -> str:
    """The address of an experiment's table of runs, in its view if it has one; `tags` are the experiment's."""
    query = {"viewStateShareKey": VIEW} if VIEW_TAG in tags else {}
    query["workflowType"] = "machine_learning"  # the other one, for language models, hides parameters
    return f"{address.rstrip('/')}/#/experiments/{experiment_id}/runs?{urlencode(query)}"
