"""The model that `mlflow models serve` runs: MLflow executes this file (models from code), nothing is unpickled.

`keystep.search.shipping.serving` logs it with a step config as its artifact. Requests are checked against
`PictureRequest`; what a user got wrong comes back as status 400 with a sentence, and more requests than may wait as
status 503.
"""

import base64
import io
import sys
from collections.abc import Callable
from typing import Any

import mlflow
import torch
from mlflow.environment_variables import MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE
from mlflow.pyfunc.model import PythonModel
from pydantic import BaseModel, ConfigDict, Field

from keystep import Prompt, StepConfig, generate, load_pipeline
from keystep.core.bounded_json import parse_json, within_limits
from keystep.core.entity_list import parse_entities
from keystep.core.turns import Busy, Queue

WAITING = 3  # requests beside the one that is drawn; MLflow has at least five threads, so that one is left to say busy
MAX_PICTURES = 64  # of one request, so that a single one cannot keep a server busy for hours
MAX_BYTES = 1_000_000  # of one request
MAX_VALUES = 5_000  # in it, names and numbers alike


class PictureRequest(BaseModel):
    """One picture to make.

    Args:
        prompt: what the model is given.
        entities: what has to be in the picture, as words of the prompt: "red circle, blue star". Without any, the
            picture is made as the model does without the refinement.
        seed: of the noise; the same seed gives the same picture. 0 if none is given.
        refine: False makes the picture as the model does without the refinement. True if it is not given.
    """

    model_config = ConfigDict(extra="forbid")

    prompt: str = Field(min_length=1, max_length=4000)
    # Optional, since MLflow takes every other field for required, defaults or not.
    entities: str | None = Field(default=None, max_length=1000)
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    refine: bool | None = None


class Picture(BaseModel):
    """One picture made: a PNG file in base64, and the seed and refinement it was made with.

    Args:
        png: the file.
        seed: of its noise.
        refined: whether the refinement changed it.
        why: why not; empty for a refined picture.
    """

    png: str
    seed: int
    refined: bool
    why: str


class StepModel(PythonModel):
    """Loads the pipeline that the step config names, once, and makes pictures, one request at a time."""

    def load_context(self, context: Any) -> None:
        """Read the config (JSON, checked) and load its pipeline; on the GPU where there is one."""
        bound_requests()
        self.config = StepConfig.load(context.artifacts["step_config"])
        self.pipe = load_pipeline(self.config).to("cuda" if torch.cuda.is_available() else "cpu")
        # The server answers 504 after this time; a request that still waits then is one that nobody listens to.
        self.queue = Queue(WAITING, patience=MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT.get())

    def predict(self, model_input: list[PictureRequest], params: dict[str, Any] | None = None) -> list[Picture]:
        """One picture a request, in their order."""
        if len(model_input) > MAX_PICTURES:
            raise MlflowException.invalid_parameter_value(
                f"{len(model_input)} pictures were asked for at once; ask for at most {MAX_PICTURES}"
            )
        try:
            with self.queue.turn():
                return [self._picture(number, request) for number, request in enumerate(model_input)]
        except Busy as busy:
            raise MlflowException(f"busy: {busy}; ask again later", error_code=TEMPORARILY_UNAVAILABLE) from busy

    def _picture(self, number: int, request: PictureRequest) -> Picture:
        seed, refine = request.seed or 0, request.refine is not False
        try:
            named = (request.entities or "").strip()
            entities = parse_entities(named) if named else ()
            made = generate(self.pipe, Prompt(request.prompt, entities), self.config, [seed], refine=refine)
        except ValueError as error:
            raise MlflowException.invalid_parameter_value(f"request {number}: {error}") from error
        file = io.BytesIO()
        made.images[0].save(file, format="PNG")
        why = "" if refine else "the request said so"
        if refine and not any(trace.iterations for trace in made.traces[0]):
            why = next((trace.failure for trace in made.traces[0] if trace.failure), "its loss was low enough already")
        return Picture(png=base64.b64encode(file.getvalue()).decode(), seed=seed, refined=not why, why=why)


def bound_requests() -> None:
    """Have the server that runs in this process refuse with status 400 what is not JSON within our limits.

    MLflow's server parses a request before the model sees it: one that is nested too deep, or has a number of
    thousands of digits, ends with status 500 there. MLflow has no public setting for this; where its inside looks
    otherwise than in MLflow 3.17, all stays as MLflow has it.
    """
    server: Any = sys.modules.get("mlflow.pyfunc.scoring_server")
    decode: Callable[[Any], Any] | None = getattr(server, "_decode_json_input", None)
    if decode is None or getattr(decode, "bounded", False):
        return

    def bounded(body: Any) -> Any:
        return decode(request_of(body) if isinstance(body, str | bytes) else body)

    bounded.bounded = True
    server._decode_json_input = bounded


def request_of(body: str | bytes) -> Any:
    """The value in the body of a request.

    Raises:
        MlflowException: status 400: no JSON in UTF-8, no mapping, or beyond a limit, which it names.
    """
    try:
        if len(body) > MAX_BYTES:
            raise ValueError(f"the request has {len(body):,} bytes; at most {MAX_BYTES:,} are read")
        text = body if isinstance(body, str) else body.decode("utf-8-sig")
        value = within_limits(parse_json(text, "the request"), "the request", max_nodes=MAX_VALUES)
        if not isinstance(value, dict):
            raise ValueError('the request must be a mapping such as {"inputs": [{"prompt": ..., "entities": ...}]}')
    except ValueError as error:
        raise MlflowException.invalid_parameter_value(str(error)) from error
    return value


mlflow.models.set_model(StepModel())
