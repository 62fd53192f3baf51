"""Keeps passwords out of what is logged: every text that leaves for a tracking store passes `masked` first."""

import re
from collections.abc import Mapping
from typing import Any

MASK = "***"
# Up to the last @ before a blank or quote: passwords that should have been percent-encoded hold / and @ too.
_USER_INFO = re.compile(r"(?<=://)[^\s\"'<>]*@")
_NAMED = re.compile(
    r"(?i)\b(\w*(?:password|passwd|pwd|secret(?:[_-]?key)?|token|api[_-]?key|access[_-]?key(?:[_-]?id)?|credentials?))"
    r"(\s*[=:]\s*)(\"[^\"]*\"|'[^']*'|[^\s&;,\"']+)"
)


def masked(value: Any) -> Any:
    """The same value with the secrets in its texts replaced by `***`, at any depth of mappings and lists.

    A secret is what stands between `://` and `@` of an address, and what follows `password=`, `token=`,
    `secret=`, `secret_key=`, `api_key=`, `access_key=` and the like, or stands in a mapping under such a name.
    """
    if isinstance(value, str):
        return _NAMED.sub(rf"\1\2{MASK}", _USER_INFO.sub(f"{MASK}@", value))
    if isinstance(value, Mapping):
        return {key: MASK if _is_secret(key, inner) else masked(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [masked(inner) for inner in value]
    return value


def _is_secret(key: object, value: object) -> bool:
    return isinstance(key, str) and isinstance(value, str) and _NAMED.fullmatch(f"{key}=x") is not None
