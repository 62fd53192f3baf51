"""Addresses of tracking stores."""

import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

if TYPE_CHECKING:
    from keystep.search.spec.search_spec import SearchSpec

DEFAULT_URI = "sqlite:///mlflow.db"
_SQLITE = "sqlite:///"


VARIABLE = "MLFLOW_TRACKING_URI"


def tracking_uri(spec: "SearchSpec") -> str:
    """Where the spec tracks: its own uri, else what MLFLOW_TRACKING_URI names, else `sqlite:///mlflow.db`."""
    return named_uri(spec.tracking.uri)


def named_uri(uri: str | None = None) -> str:
    """The store that is meant where `uri` is given, or nothing: every command asks here."""
    return absolute_uri(uri or os.environ.get(VARIABLE) or DEFAULT_URI)


def absolute_uri(uri: str) -> str:
    """The same store, whatever folder one is in."""
    file = sqlite_file(uri)
    return uri if file is None else f"{_SQLITE}{file.absolute()}"


def sqlite_file(uri: str) -> Path | None:
    """The file of an SQLite store; None for others."""
    return Path(uri.removeprefix(_SQLITE)) if uri.startswith(_SQLITE) and uri != _SQLITE else None


def health_page(uri: str) -> str:
    """Where an http server says that it lives; needs no user."""
    parts = urlsplit(uri)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], f"{parts.path.rstrip('/')}/health", "", ""))
