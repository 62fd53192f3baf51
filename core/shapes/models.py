"""Where the embedded models are: names such as `keystep/shapes-sd` stand for folders of the installed package."""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
EMBEDDED = {
    f"keystep/{name}": WEIGHTS / name for name in ("shapes-sd", "shapes-sd3", "shapes-segmenter", "shapes-clip")
}


def resolve_model(name: str) -> str:
    """The folder of an embedded model; any other hub id or path comes back as it is.

    Raises ValueError for a name under `keystep/` that is not an embedded model.
    """
    if name in EMBEDDED:
        return str(EMBEDDED[name])
    if name.startswith("keystep/"):
        raise ValueError(f"no embedded model {name!r}; choose from {', '.join(EMBEDDED)}")
    return name
