"""What Ray writes on this machine, for its owner's eyes alone: Ray itself makes it readable, or writable, by all."""

import os
import secrets
from pathlib import Path

PRIVATE_FILE, PRIVATE_FOLDER = 0o600, 0o700
OTHERS = 0o077


def keep_token_private() -> None:
    """Make the file of Ray's token, if Ray is about to, and let none but its owner read it.

    Whoever has the token can run code in this user's name. Ray takes a token that it finds there; where it makes one
    itself, others could read it at least until its mode is changed.
    """
    path = Path.home() / ".ray" / "auth_token"
    wanted = os.environ.get("RAY_AUTH_MODE", "token").lower() == "token"
    elsewhere = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    if wanted and not elsewhere and not path.exists():
        path.parent.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE), "w") as file:
            file.write(secrets.token_hex(32))  # as long as Ray's own
        try:
            os.link(draft, path)
        except FileExistsError:
            pass  # another search was faster, and its token is as good
        finally:
            draft.unlink()
    _close(path)


def keep_session_private() -> None:
    """Close the folder of the Ray that this process started: logs, and Ray Tune's copies of the spec, lie there."""
    from ray._private import worker

    node = worker._global_node
    if node is not None and node.head:
        _close(Path(node.get_session_dir_path()))


def _close(path: Path) -> None:
    """Take from others what they may do with a file or folder of this user."""
    try:
        found = path.stat()
        if found.st_uid == os.getuid() and found.st_mode & OTHERS:
            path.chmod(found.st_mode & 0o777 & ~OTHERS)
    except OSError:
        pass  # it is not there, or on a disk that knows no modes
