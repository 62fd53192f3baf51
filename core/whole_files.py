"""Text files that are there whole or not at all."""

import os
import uuid
from pathlib import Path


def write_whole(path: str | os.PathLike[str], text: str) -> Path:
    """Write a text file in UTF-8, folders included, and return its path; nobody ever reads half of it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile's: its files are for their owner's eyes alone, and others have to read this one.
    draft = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    try:
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    return path
