"""What is told of a model that cannot be had, by what a hub answers: a small one runs here, over real HTTP."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from keystep.core.generation import load_pipeline
from keystep.core.hub import hub_trouble, model_file, weights_trouble

INDEX = "model_index.json"
FILES = {
    "me/plain": [INDEX, "unet/config.json", "unet/diffusion_pytorch_model.safetensors"],
    "me/half": [INDEX, "unet/diffusion_pytorch_model.fp16.safetensors", "text_encoder/model.fp16.safetensors"],
    "me/sharded": [INDEX, "transformer/diffusion_pytorch_model.fp16-00001-of-00002.safetensors"],
    "me/pickled": [INDEX, "unet/diffusion_pytorch_model.bin", "v1.ckpt"],
    "me/detector": ["config.json", "model.safetensors"],
}
# The status and X-Error-Code that huggingface.co answers with, by the case.
REFUSED = {
    "me/gated": (403, "GatedRepo"),
    "me/private": (401, "RepoNotFound"),
    "me/broken": (503, ""),
    "me/tokenless": (401, ""),
}


class Hub(BaseHTTPRequestHandler):
    """Answers as huggingface.co does."""

    def do_HEAD(self) -> None:
        parts = self.path.lstrip("/").split("/")
        model, rest = "/".join(parts[:2]), parts[3:]  # OWNER/NAME/resolve/REVISION/FILE
        if model in REFUSED:
            return self._refuse(*REFUSED[model])
        if model not in FILES:
            return self._refuse(401, "RepoNotFound")  # to those without a token it does not tell it from a private one
        if rest[0] not in ("main", "v1"):
            return self._refuse(404, "RevisionNotFound")
        if "/".join(rest[1:]) not in FILES[model]:
            return self._refuse(404, "EntryNotFound")
        self.send_response(200)
        for name, value in {"ETag": '"1"', "X-Repo-Commit": "0" * 40, "Content-Length": "2"}.items():
            self.send_header(name, value)
        self.end_headers()

    def do_GET(self) -> None:
        if not self.path.startswith("/api/models/"):
            self.do_HEAD()
            self.wfile.write(b"{}")
            return
        model = "/".join(self.path.split("?")[0].split("/")[3:5])
        body = json.dumps({"id": model, "siblings": [{"rfilename": file} for file in FILES.get(model, [])]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        if status == 401 and not code:
            self.send_header("X-Error-Message", "Invalid credentials in Authorization header")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def point_at(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the hub's library ask there, as it does with HF_ENDPOINT set when it is imported."""
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")


@pytest.fixture(autouse=True)
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """The address of a hub, for a machine without a token and with an empty cache."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    point_at(address, monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    huggingface_hub.close_session()  # the next one reads NO_PROXY
    yield address
    server.shutdown()
    server.server_close()
    huggingface_hub.close_session()


@pytest.mark.parametrize(
    ("model", "token", "said"),
    [
        ("me/gated", None, ["is gated: accept its licence at http://127.0.0.1", "/me/gated", "HF_TOKEN"]),
        ("me/gated", "hf_x", ["is gated, and the account of your HF_TOKEN has no access"]),
        ("me/private", None, ["shows no model 'me/private'", "if it is private, set HF_TOKEN or run hf auth login"]),
        ("me/private", "hf_x", ["shows no model 'me/private' to the account of your HF_TOKEN"]),
        ("me/missing", None, ["shows no model 'me/missing': correct its name"]),
        ("me/tokenless", "hf_wrong", ["refuses your HF_TOKEN (status 401)", "unset it for a public model"]),
        ("me/broken", None, ["answers with status 503: try again later"]),
        ("me/detector", None, ["'me/detector' is on the hub, but has no model_index.json: it is another kind"]),
        ("/no/folder/here", None, ["neither a folder that is here nor a hub id, which is OWNER/NAME"]),
        ("a b", None, ["nor a hub id"]),
    ],
)
def test_each_case_has_its_sentence(
    model: str, token: str | None, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    began = time.monotonic()
    trouble = hub_trouble(model)
    assert trouble is not None and [text for text in said if text not in trouble] == [], trouble
    assert time.monotonic() - began < 5
    assert token is None or token not in trouble


def test_a_model_that_is_there_has_no_trouble(tmp_path: Path) -> None:
    assert hub_trouble("me/plain") is None and hub_trouble("me/plain", revision="v1") is None
    assert hub_trouble("me/detector", file="config.json") is None
    assert hub_trouble(str(tmp_path)) is None
    assert model_file("me/plain", INDEX).read_bytes() == b"{}"


def test_a_revision_that_is_not_there_is_named() -> None:
    assert "'me/plain' has no revision 'v9'" in str(hub_trouble("me/plain", revision="v9"))


def test_offline_is_told_at_once_and_what_is_cached_still_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    model_file("me/plain", INDEX)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    began = time.monotonic()
    assert "HF_HUB_OFFLINE forbids asking the hub" in str(hub_trouble("me/half"))
    assert model_file("me/plain", INDEX).read_bytes() == b"{}"
    assert time.monotonic() - began < 2


def test_a_hub_that_does_not_answer_is_not_asked_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    point_at("http://127.0.0.1:9", monkeypatch)
    began = time.monotonic()
    trouble = hub_trouble("me/plain")
    assert time.monotonic() - began < 5
    assert "the hub at http://127.0.0.1:9 does not answer" in str(trouble) and "HF_ENDPOINT" in str(trouble)
    with pytest.raises(OSError, match="does not answer"):
        load_pipeline("me/plain")
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("model", "variant", "said"),
    [
        ("me/plain", None, None),
        ("me/half", "fp16", None),
        ("me/half", None, "has no plain weights, only of variant fp16: set model.variant"),
        ("me/sharded", None, "only of variant fp16"),
        ("me/sharded", "fp16", None),
        ("me/plain", "fp16", "has no weights of variant 'fp16', only of variant none (the plain ones)"),
        ("me/pickled", None, "has pickled weights alone, which can run code and are not loaded"),
    ],
)
def test_the_weights_that_are_there_are_named(
    model: str, variant: str | None, said: str | None, tmp_path: Path
) -> None:
    for file in FILES[model]:  # the same of a folder
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    for place in (model, str(tmp_path)):
        trouble = weights_trouble(place, variant=variant)
        assert trouble is None if said is None else said in str(trouble), trouble
