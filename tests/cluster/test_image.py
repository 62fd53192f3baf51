"""The image keeps to what linters ask: pinned, not root, no downloads or secrets in it, and what it copies is there."""

import re
import subprocess
import sys
from pathlib import Path

from keystep.cluster.targets.cloud import HOME
from keystep.cluster.targets.rayjob import USER
from tests.cluster.tiny import ROOT

DOCKERFILE = ROOT / "cluster" / "templates" / "Dockerfile"


def instructions() -> list[tuple[str, str]]:
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    whole = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in whole.splitlines() if line)]


def test_hadolint_finds_nothing() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("hadolint")), str(DOCKERFILE)], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_the_base_is_pinned_and_the_user_is_that_of_the_manifests() -> None:
    given = dict(instructions())
    assert re.fullmatch(r"python:3\.1[1-3]\.\d+-slim-\w+", given["FROM"])
    assert given["USER"] == f"{USER}:{USER}"
    assert given["WORKDIR"] == HOME
    assert [word for word, _ in instructions()].index("USER") > max(
        place for place, (word, _) in enumerate(instructions()) if word == "RUN"
    )


def test_a_head_in_the_image_can_set_up_other_machines() -> None:
    """Ray's cluster launcher runs there, and calls these programs."""
    (installed,) = [rest for word, rest in instructions() if word == "RUN" and "apt-get install" in rest]
    assert {"openssh-client", "rsync"} <= set(installed.split())


def test_nothing_is_fetched_by_address_and_no_secret_is_named() -> None:
    assert "ADD" not in dict(instructions())
    text = " ".join(rest for _, rest in instructions())
    assert "://" not in text
    assert not re.search(r"(?i)token|password|secret|api_?key", text)


def test_what_is_copied_is_there_and_let_through_by_the_ignore_file() -> None:
    let_through = set(Path(f"{DOCKERFILE}.dockerignore").read_text().split())
    copied = [name.rstrip("/") for word, rest in instructions() if word == "COPY" for name in rest.split()[:-1]]
    assert {"requirements.lock", "core", "cluster"} <= set(copied)
    assert [name for name in copied if not (ROOT / name).exists() or f"!{name}" not in let_through] == []
    assert any("--constraint requirements.lock" in rest for word, rest in instructions() if word == "RUN")
