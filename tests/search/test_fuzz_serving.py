"""Bad requests to MLflow's own server application: status 400 with the limit, at once, never 500."""

import json
import random
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.search.spoiling import CONFIG, EXTREME, SECONDS, deep, places, replaced, spoilt


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A client of MLflow's own server application, with the model as it is registered."""
    import mlflow.pyfunc
    import mlflow.pyfunc.scoring_server as server
    from fastapi.testclient import TestClient

    from keystep.search.shipping import step_model

    folder = tmp_path_factory.mktemp("served")
    CONFIG.save(folder / "step_config.json")
    untouched = server._decode_json_input  # pyright: ignore[reportPrivateUsage]
    mlflow.pyfunc.save_model(
        str(folder / "model"),
        python_model=str(step_model.__file__),
        artifacts={"step_config": str(folder / "step_config.json")},
        pip_requirements=["mlflow"],
    )
    try:
        yield TestClient(server.init(mlflow.pyfunc.load_model(str(folder / "model"))), raise_server_exceptions=False)
    finally:
        server._decode_json_input = untouched  # pyright: ignore[reportPrivateUsage]


GOOD = {"inputs": [{"prompt": "a red circle and a blue star", "entities": "red circle, blue star", "seed": 0}]}


def asked(client: Any, body: bytes) -> tuple[int, str]:
    """Status and text of the answer, which must come at once unless a picture was drawn."""
    began = time.process_time()
    answer = client.post("/invocations", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200 or time.process_time() - began < SECONDS
    return answer.status_code, answer.text


@pytest.mark.parametrize(
    ("body", "limit"),
    [
        (deep(100_000), "nested deeper than 32 levels"),
        ('{"inputs": ' + deep(5000) + "}", "nested deeper than 32 levels"),
        ('{"inputs": [{"prompt": ' + deep(300) + "}]}", "nested deeper than 32 levels"),
        ('{"inputs": [{"seed": ' + "9" * 5000 + "}]}", "4300 digits"),
        ('{"inputs": [{"seed": 1e999}]}', "no finite number"),
        ('{"inputs": [{"seed": NaN}]}', "no finite number"),
        ('{"inputs": [{"seed": 9999999999999999999999999}]}', "beyond 2**64"),
        ('{"inputs": [' + "1," * 100_000 + "1]}", "holds more than 5,000 values"),
        ('{"inputs": "' + "x" * 1_000_000 + '"}', "at most 1,000,000 are read"),
        ("[]", "must be a mapping"),
        ("", "is not JSON"),
    ],
    ids=lambda text: text[:30],
)
def test_limits_of_requests_are_stated(client: Any, body: str, limit: str) -> None:
    status, text = asked(client, body.encode())
    assert status == 400 and limit in text, text


@pytest.mark.parametrize("seed", range(3))
def test_requests(client: Any, seed: int) -> None:
    """20 with a value replaced and 20 with bytes spoilt: refused with status 400, or a picture."""
    generator = random.Random(500 + seed)
    ways = list(places(GOOD))
    statuses = []
    for _ in range(20):
        replacing = json.dumps(replaced(GOOD, generator.choice(ways), generator.choice(EXTREME))).encode()
        for body in (replacing, spoilt(json.dumps(GOOD).encode(), generator)):
            status, text = asked(client, body)
            assert status in (200, 400), (body[:300], text[:300])
            statuses.append(status)
    assert statuses.count(400) >= 20
    assert asked(client, json.dumps(GOOD).encode())[0] == 200
