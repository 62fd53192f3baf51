"""A spec that means the same on other machines as here, and holds nothing that must not be seen."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from keystep.evaluation.prompt_sets import STANDARD_SETS
from keystep.search.spec.loading import spec_yaml
from keystep.search.spec.search_spec import SearchSpec
from keystep.search.storing.secrets import masked
from keystep.search.tracking.tracking_uri import DEFAULT_URI, VARIABLE, sqlite_file

EXAMPLE = "/shared/keystep"
ADVICE = {
    "tracking.uri": "leave it out and set MLFLOW_TRACKING_URI, there",
    "model.id": "give the id alone, and set HF_TOKEN there",
    "detector.id": "give the id alone, and set HF_TOKEN there",
    "metrics.clip": "give the id alone, and set HF_TOKEN there",
}


def refuse_secrets(spec: SearchSpec) -> None:
    """A spec travels in manifests that many can read.

    Raises:
        ValueError: a password, token or key in one of its texts; names the text, and does not show it.
    """
    plain = spec.model_dump(mode="json")
    for key in _changed(plain, masked(plain)):
        advice = ADVICE.get(key, "take it out, and let the machines' own role or environment hold it")
        raise ValueError(f"{key} holds a password, and would be submitted with it: {advice}")


def _changed(given: Any, shown: Any, key: str = "") -> Iterator[str]:
    """The keys of the texts that differ."""
    if isinstance(given, dict):
        for (name, inner), other in zip(given.items(), shown.values(), strict=True):
            yield from _changed(inner, other, f"{key}.{masked(name)}" if key else name)
    elif isinstance(given, list):
        for inner, other in zip(given, shown, strict=True):
            yield from _changed(inner, other, key)
    elif given != shown:
        yield key


def portable(spec: SearchSpec, *, shipped: Path | None = None) -> SearchSpec:
    """The spec as it is submitted to machines that do not share this one's working directory.

    Models that lie in a folder get their absolute path, prompt files their path in `shipped`.

    Args:
        shipped: a folder whose content goes along, and is the working directory there.

    Raises:
        ValueError: a password in an address; storage, tracking or prompts that would be looked for in a working
            directory that is lost when the machines are; says what to set.
    """
    refuse_secrets(spec)
    for name, path in (("path", spec.storage.path), ("latents_path", spec.storage.latents_path)):
        if path is not None and "://" not in path and not Path(path).is_absolute():
            _refuse(f"storage.{name}", path, f"storage.{name}={EXAMPLE} or storage.{name}=s3://bucket/prefix")
    database = sqlite_file(spec.tracking.uri or "")
    if spec.tracking.enabled and database is not None and not database.is_absolute():
        _refuse(
            "tracking.uri",
            spec.tracking.uri or DEFAULT_URI,
            f"tracking.uri=http://HOST:5000, tracking.uri=sqlite:///{EXAMPLE}/mlflow.db or tracking.enabled=false",
        )
    sets = tuple(_prompt_file(name, shipped) for name in spec.prompts.sets)
    anchored = spec.anchored()
    return anchored.model_copy(update={"prompts": spec.prompts.model_copy(update={"sets": sets})})


def variables_needed(spec: SearchSpec) -> tuple[str, ...]:
    """Environment variables that must be set on machines whose working directory is lost with them: else the search
    would be tracked in a file there."""
    return (VARIABLE,) if spec.tracking.enabled and spec.tracking.uri is None else ()


def spec_text(spec: SearchSpec) -> str:
    """The file that is submitted."""
    return spec_yaml(spec)


def _prompt_file(name: str, shipped: Path | None) -> str:
    if name in STANDARD_SETS or Path(name).is_absolute():
        return name
    if shipped is not None and Path(name).resolve().is_relative_to(shipped.resolve()):
        return str(Path(name).resolve().relative_to(shipped.resolve()))
    raise ValueError(
        f"prompts.sets: {name} is a file on this machine. Put it where all machines see it and give its absolute path, "
        "or send its folder along with --working-dir (target ray)"
    )


def _refuse(key: str, path: str, choices: str) -> NoReturn:
    raise ValueError(
        f"{key} is {path}, which the machines of a cluster would look for in a folder that is lost with them: "
        f"--set {choices}"
    )
