"""Which store is meant: the spec's, else the environment's, else the file; every command means the same."""

from pathlib import Path

import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner

from keystep.cluster.checks.tracking_check import tracking_trouble
from keystep.search.cli import build_app
from keystep.search.shipping.serving import _store
from keystep.search.spec.loading import load_spec
from keystep.search.spec.search_spec import TrackingSpec
from keystep.search.tracking.tracker import Tracker
from keystep.search.tracking.tracking_uri import tracking_uri
from keystep.search.tracking.ui_server import find_store


@pytest.mark.parametrize(
    ("given", "variable", "meant"),
    [
        ("sqlite:///{0}/spec.db", "sqlite:///{0}/variable.db", "sqlite:///{0}/spec.db"),
        ("sqlite:///{0}/spec.db", None, "sqlite:///{0}/spec.db"),
        (None, "sqlite:///{0}/variable.db", "sqlite:///{0}/variable.db"),
        (None, "sqlite:///variable.db", "sqlite:///{0}/variable.db"),
        (None, "", "sqlite:///{0}/mlflow.db"),
        (None, None, "sqlite:///{0}/mlflow.db"),
    ],
)
def test_spec_then_environment_then_file_everywhere(
    given: str | None, variable: str | None, meant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if variable is not None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", variable.format(tmp_path))
    asked = [] if given is None else [f"tracking.uri={given.format(tmp_path)}"]
    spec, meant = load_spec("shapes-sd", asked), meant.format(tmp_path)
    file = Path(meant.removeprefix("sqlite:///"))
    file.touch()
    assert tracking_uri(spec) == meant
    assert _store(spec, None) == meant, "export --register"
    assert find_store(uri=spec.tracking.uri) == meant, "ui"
    assert load_spec("shapes-sd", [*asked, "tracking.experiment=mine"]).tracking.uri == spec.tracking.uri


def test_no_address_is_the_default_and_not_a_switch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_spec("shapes-sd", ["tracking.uri="]) == load_spec("shapes-sd")
    assert TrackingSpec().uri is None
    shown = CliRunner().invoke(build_app(), ["search", "--print-spec"]).stdout
    assert "MLFLOW_TRACKING_URI" in shown and "enabled: true  # false logs nothing; a uri of null still does" in shown


def test_off_is_off_whatever_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/variable.db")
    tracker = Tracker(load_spec("shapes-sd", ["tracking.enabled=false"]), tmp_path)
    tracker.start(None, None, (1.0,))  # type: ignore[arg-type]
    tracker.cost("held-out", 1.0, 1.0, 1.0)
    assert tracker.close() and tracker.status == "Not tracked" and list(tmp_path.iterdir()) == []


def test_doctor_tries_the_environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/nowhere/variable.db")
    assert "nowhere" in tracking_trouble(load_spec("shapes-sd"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/variable.db")
    (tmp_path / "variable.db").touch()
    assert tracking_trouble(load_spec("shapes-sd")) == ""
    assert MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/variable.db").get_experiment("0").tags == {}
