"""Passwords in every place of a spec and in every shape: none is shown, wherever the spec or its mistakes are."""

import io
import random
import re
import string
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

import keystep.cluster.cli
from keystep.search.cli import build_app, commands
from keystep.search.reporting.report import print_report
from keystep.search.spec.search_spec import SearchSpec
from keystep.search.storing.secrets import MASK, masked
from keystep.search.tracking.run_fields import experiment_name
from keystep.search.tracking.spool import event
from tests.search.found_search import finished
from tests.search.specs import plain

LETTERS = string.ascii_letters + string.digits
# Where the part between braces is what must not be seen; {20} is so many random characters.
SHAPES = [
    "postgresql://ann:{14}@host:5432/db",
    "s3://KEY:{20}@bucket/prefix",
    "https://{20}@host/model",
    "https://u:{8}/{8}@host/model",
    "https://host/model?passphrase={12}",
    "https://host/model?auth={12}&x=1",
    "https://host/model?sv=2024&sig={30}",
    "https://host/model?Signature={20}",
    "https://host/model?X-Amz-Signature={40}",
    "https://host/model?X-Amz-Credential={20}",
    "https://host/model?access_token={20}",
    "https://host/model?apikey={20}",
    "https://host/model?key={20}",
    "https://host/model?client_secret={20}",
    "https://host/model?code={20}",
    "https://host/model#token={20}",
    "https://host/?next=http%3A%2F%2Fu%3A{12}%40h",
    "mssql+pyodbc:///?odbc_connect=UID%3Dsa%3BPWD%3D{12}",
    "ann:{14}@host",
    "hf_{34}",
    "see ghp_{36} there",
    "github_pat_{40}",
    "glpat-{20}",
    "Bearer {24}",
    "Authorization: Basic {24}",
    "eyJ{20}.eyJ{30}.{20}",
    "password={14}",
    "passphrase: {14}",
    "AWS_SECRET_ACCESS_KEY={40}",
    "dckr_pat_{27}",
]
UPPER_SHAPES = ["AKIA{16}", "ASIA{16}"]
PLACES = [
    "name",
    "model.id",
    "model.revision",
    "detector.id",
    "detector.revision",
    "metrics.clip",
    "storage.path",
    "storage.latents_path",
    "tracking.uri",
    "tracking.experiment",
    "tracking.artifact_location",
    "prompts.sets",
]


def cases() -> list[tuple[str, str, list[str]]]:
    """(place, text, secrets in it): every shape at two places and every place several times, by a fixed seed."""
    generator = random.Random(16)
    made = []
    for number, shape in enumerate(SHAPES * 2 + UPPER_SHAPES * 2):
        letters = string.ascii_uppercase + string.digits if shape in UPPER_SHAPES else LETTERS
        hidden: list[str] = []

        def fill(match: re.Match[str], letters: str = letters, hidden: list[str] = hidden) -> str:
            hidden.append("".join(generator.choices(letters, k=int(match[1]))))
            return hidden[-1]

        text = re.sub(r"\{(\d+)\}", fill, shape)
        made.append((PLACES[(number * 5 + number // len(SHAPES)) % len(PLACES)], text, hidden))
    return made


CASES = cases()


def spec_with(place: str, text: str) -> dict[str, Any]:
    """The small spec with a text in one place."""
    keys = place.split(".")
    return plain(**{"__".join(keys): [text] if place == "prompts.sets" else text})


def test_there_are_sixty_and_every_place_has_some() -> None:
    assert len(CASES) >= 60 and {place for place, _, _ in CASES} == set(PLACES)
    assert all(hidden for _, _, hidden in CASES)


@pytest.mark.parametrize(("place", "text", "hidden"), CASES, ids=[f"{place}-{text[:24]}" for place, text, _ in CASES])
def test_no_password_is_shown(
    place: str, text: str, hidden: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    data = spec_with(place, text)
    Path("mine.yaml").write_text(yaml.safe_dump(data))
    Path("broken.yaml").write_text(yaml.safe_dump(data) + "search: [\n")
    app = build_app({**commands(), **keystep.cluster.cli.commands()})
    runs = [
        ["launch", "mine.yaml", "--target", "local", "--dry-run"],
        ["launch", "mine.yaml", "--target", "slurm", "--dry-run"],
        ["launch", "mine.yaml", "--target", "ray", "--dry-run"],
        ["launch", "mine.yaml", "--target", "kuberay", "--image", "a/b:1", "--dry-run"],
        ["search", "mine.yaml", "--set", "search.trial=3"],
        ["search", "broken.yaml"],
        ["search", "shapes-sd", "--set", f"{place}.x={text}"],
        ["search", "shapes-sd", "--set", f"model={text}"],
        ["report", text],
    ]
    shown = ""
    for arguments in runs:
        result = CliRunner().invoke(app, arguments, env={"COLUMNS": "400"})
        assert "Traceback" not in result.output and result.exit_code in (0, 2), result.output
        if "broken.yaml" in arguments or "--set" in arguments:
            assert result.exit_code == 2
        shown += result.output
    spec = SearchSpec.from_plain(data, "mine.yaml")
    shown += spec.without_secrets().model_dump_json() + experiment_name(spec)
    shown += str(event("opened", "opened", {"spec": spec.model_dump(mode="json")}).data)
    console = Console(width=300, record=True, file=io.StringIO())
    print_report(finished().model_copy(update={"spec": spec}), console)
    shown += console.export_text()
    assert [password for password in hidden if password in shown] == []


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/prefix?region=eu-west-1&scheme=http&endpoint_override=host:9000",
        "CompVis/stable-diffusion-v1-4",
        "hf-internal-testing/tiny-stable-diffusion-pipe",
        "hf-hub:laion/CLIP-ViT-B-32",
        "ViT-L-14:openai",
        "yolo:yolov8x-seg.pt",
        "registry.example/keystep:0.1.0@sha256:" + "0" * 64,
        "5ca25b9d7f1a4e3c2b1a09f8e7d6c5b4a3928170",
        "sqlite:////home/me/mlflow.db",
        "http://mlflow:5000",
        "the token embeddings of 77 tokens: bearer of news",
        "max_sequence_length: 77, num_tokens=5",
        "a photo of a red circle and a blue star",
        "/shared/keystep/runs",
        "sk-learn-is-a-library-of-python",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert masked(text) == text


def test_a_secret_is_known_by_the_name_it_stands_under() -> None:
    shown = masked({"auth": "x1", "tokens": ["a"], "note": {"db_password": "y2"}, "seeds": (1, 2), "token": None})
    assert shown == {"auth": MASK, "tokens": ["a"], "note": {"db_password": MASK}, "seeds": [1, 2], "token": None}
