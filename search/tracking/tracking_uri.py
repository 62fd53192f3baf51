"""Addresses of tracking stores."""

import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

if TYPE_CHECKING:
    from search.spec import SearchSpec

DEFAULT_URI = "sqlite:///mlflow.db"
_SQLITE = "sqlite:///"


def tracking_uri(spec: "SearchSpec") -> str:
    """Where the spec tracks: its own uri, else MLFLOW_TRACKING_URI, else `sqlite:///mlflow.db`."""
    return absolute_uri(spec.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI)


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
