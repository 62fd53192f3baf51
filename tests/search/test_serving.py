"""A registered step config behind `mlflow models serve`: a real server, pictures over HTTP."""

import base64
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import mlflow
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from keystep.core.config import StepConfig
from keystep.core.generation import generate, load_pipeline
from keystep.core.prompts import Entity, Prompt
from keystep.search.choice.stored_searches import load_result
from keystep.search.cli import build_app
from tests.search.found_search import stored

START_SECONDS = 300  # a busy machine imports torch slowly


@pytest.fixture(scope="module")
def registered(tmp_path_factory):
    """The folder of a search whose winner `keystep export --register` registered as shapes@production."""
    folder = tmp_path_factory.mktemp("storage")
    stored(folder)
    result = CliRunner().invoke(
        build_app(),
        [
            *("export", "tried", "--storage", str(folder), "--out", str(folder / "step_config.json")),
            *("--register", "shapes", "--alias", "production"),
        ],
        env={"COLUMNS": "220"},
    )
    assert result.exit_code == 0, result.stderr
    assert "mlflow models serve -m 'models:/shapes@production' --env-manager local" in result.stdout
    return folder


def test_the_version_tells_where_it_comes_from_and_holds_no_pickle(registered):
    uri = f"sqlite:///{registered}/mlflow.db"
    search_id = load_result("tried", str(registered)).spec.search_id
    version = mlflow.MlflowClient(uri, uri).get_model_version_by_alias("shapes", "production")
    assert version.tags["keystep.search_id"] == search_id and "p = 0.00049" in str(version.description)
    files = [path for path in (registered / "artifacts").rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"MLmodel", "step_model.py", "step_config.json"} <= names
    code = [path.parts[path.parts.index("code") + 1 :] for path in files if "code" in path.parts]
    assert {parts[0] for parts in code} == {"keystep"} and {parts[1] for parts in code} == {"__init__.py", "core"}
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".pt", ".bin"))]
    assert {path.parts[path.parts.index("weights") + 1] for path in files if "weights" in path.parts} == {"shapes-sd"}
    (config,) = (path for path in files if path.name == "step_config.json")
    assert config.read_bytes() == (registered / "step_config.json").read_bytes()


@pytest.fixture(scope="module")
def address(registered, tmp_path_factory):
    """The served model's address. It is served from a folder without keystep."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    elsewhere = tmp_path_factory.mktemp("server")
    log = (elsewhere / "log").open("wb")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    # The server starts uvicorn by name, as it is found in an activated environment.
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/shapes@production"),
            *("--env-manager", "local", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        ],
        cwd=elsewhere,
        env=environment | {"MLFLOW_TRACKING_URI": f"sqlite:///{registered}/mlflow.db", "OMP_NUM_THREADS": "1"},
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            said = (elsewhere / "log").read_text(errors="replace")
            assert process.poll() is None, said
            assert time.monotonic() < deadline, said
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5):
                    break
            except OSError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(30)
        log.close()


def post(address, body) -> tuple[int, dict]:
    contents = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(address, contents, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def opened(picture) -> Image.Image:
    data = base64.b64decode(picture["png"])
    assert data.startswith(b"\x89PNG")
    return Image.open(io.BytesIO(data))


@contextmanager
def one_thread() -> Iterator[None]:
    """As the server has: the order of sums, and with it a last bit, goes by the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def test_pictures_come_back_as_generate_makes_them(registered, address):
    text = "a photo of a red circle and a blue star"
    request = {"prompt": text, "entities": "red circle, blue star"}
    status, answer = post(address, {"inputs": [request | {"seed": 3}, request | {"seed": 3, "refine": False}, request]})
    assert status == 200, answer
    pictures = answer["predictions"]
    assert [(picture["seed"], picture["refined"]) for picture in pictures] == [(3, True), (3, False), (0, True)]
    config = StepConfig.load(registered / "step_config.json")
    pipe = load_pipeline(config)
    prompt = Prompt(text, [Entity("circle", "red"), Entity("star", "blue")])
    assert [picture["why"] for picture in pictures] == ["", "the request said so", ""]
    with one_thread():
        for picture, (seed, refine) in zip(pictures, [(3, True), (3, False), (0, True)], strict=True):
            expected = generate(pipe, prompt, config, [seed], refine=refine).images[0]
            assert opened(picture).tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"inputs": [{"prompt": "a cat", "entities": "red circle"}]}, "entity 'red circle' is not in the prompt"),
        ({"inputs": [{"prompt": "a cat", "entities": ", cat"}]}, "expected entities such as"),
        ({"inputs": [{"prompt": "a cat", "entities": "cat", "seed": -1}]}, "greater than or equal to 0"),
        ({"inputs": [{"prompt": "a cat", "entities": "cat", "sed": 1}]}, "sed"),
        ({"inputs": [{"prompt": "a cat", "entities": "cat"}] * 65}, "ask for at most 64"),
        ({"prompt": "a cat"}, "Expected list, but got dict"),
        (b"not json", "JSON"),
    ],
)
def test_a_bad_request_is_told_what_is_wrong(address, body, reason):
    status, answer = post(address, body)
    assert status == 400 and reason in answer["message"], answer


@pytest.mark.parametrize("given", [{}, {"entities": ""}, {"entities": None}])
def test_a_prompt_without_entities_is_drawn_unrefined_and_says_why(registered, address, given):
    text = "a photo of a red circle"
    status, answer = post(address, {"inputs": [{"prompt": text, "seed": 5} | given]})
    assert status == 200, answer
    (picture,) = answer["predictions"]
    assert picture["refined"] is False and "names no entities" in picture["why"]
    config = StepConfig.load(registered / "step_config.json")
    with one_thread():
        expected = generate(load_pipeline(config), Prompt(text, []), config, [5], refine=False).images[0]
    assert opened(picture).tobytes() == expected.tobytes()


def together(address, bodies):
    with ThreadPoolExecutor(len(bodies)) as pool:
        return list(pool.map(lambda body: post(address, body), bodies))


def test_requests_at_once_get_the_pictures_that_they_get_alone(address):
    request = {"prompt": "a photo of a red circle and a blue star", "entities": "red circle, blue star"}
    bodies = [{"inputs": [request | change]} for change in ({"seed": 3}, {"seed": 4}, {"seed": 3, "refine": False})]
    alone = [post(address, body) for body in bodies]
    assert [status for status, _ in alone] == [200, 200, 200]
    for pair in ([0, 1], [0, 2], [0, 1, 2]):
        assert together(address, [bodies[number] for number in pair]) == [alone[number] for number in pair]


def test_more_requests_than_may_wait_are_told_that_the_server_is_busy(address):
    """One is drawn, three wait; MLflow has threads for one more at least, which says so at once."""
    request = {"prompt": "a photo of a red circle and a blue star", "entities": "red circle, blue star"}
    several = {"inputs": [request | {"seed": seed} for seed in range(3)]}
    answers = together(address, [several] * 6)
    assert {status for status, _ in answers} == {200, 503}, answers
    drawn = [answer for status, answer in answers if status == 200]
    assert len(drawn) == 4 and all(answer == drawn[0] for answer in drawn)
    for status, answer in answers:
        if status == 503:
            assert "busy: 4 requests are being drawn or wait already; ask again later" in answer["message"]
            assert answer["error_code"] == "TEMPORARILY_UNAVAILABLE"
    assert post(address, {"inputs": [request]})[0] == 200
