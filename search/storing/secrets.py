"""Keeps passwords out of what is shown, logged and sent: every text that leaves passes `masked` first."""

import re
from collections.abc import Mapping
from typing import Any

MASK = "***"
# Up to the last @ before a blank or quote: passwords that should have been percent-encoded hold / and @ too.
_USER_INFO = re.compile(r"(?<=://)[^\s\"'<>]*@")
_ENCODED_USER_INFO = re.compile(r"(?i)(%3a%2f%2f)[^\s\"'<>&]*?(%40)")
_BARE_USER_INFO = re.compile(r"(?<![\w/:@.-])([\w.+-]+:)[^\s\"'<>:@/]+@(?!sha256:)(?=[\w.-]+)")  # user:password@host
_WORD = (
    r"(?:pass(?:word|wd|phrase|code)|pwd|secret(?:[_-]?key)?|token|api[_-]?key|private[_-]?key|auth(?:orization)?|"
    r"access[_-]?key(?:[_-]?id)?|account[_-]?key|signature|credentials?)"
)
_NAMED = re.compile(
    rf"(?i)\b([\w-]*{_WORD})(\s*[=:]\s*|%3d)(?:(?:bearer|basic|token)\s+)?(\"[^\"]*\"|'[^']*'|[^\s&;,\"'%]+)"
)
# In an address also what is too common a word elsewhere.
_QUERY = re.compile(
    rf"(?i)([?&;#][\w.\[\]-]*(?:{_WORD}|pass|key(?:[_-]?id)?|sig|creds?|jwt|sas|hmac|otp|pin|code|session(?:[_-]?id)?)="
    r")[^\s&;#\"'<>]+"
)
_BEARER = re.compile(r"(?i)\b(bearer\s+)[\w.~+/=-]{6,}")
_SHAPES = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|\beyJ[\w-]{6,}\.[\w-]{6,}(?:\.[\w-]*)?"  # JSON web tokens
    r"|\b(?:hf|api_org)_[A-Za-z0-9]{16,}"  # Hugging Face
    r"|\bgh[pousr]_[A-Za-z0-9]{16,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{16,}"
    r"|\b(?:AKIA|ASIA|AROA|AIDA)[0-9A-Z]{16}\b"  # Amazon
    r"|\bAIza[\w-]{30,}|\bya29\.[\w-]{16,}|\bGOCSPX-[\w-]{16,}"  # Google
    r"|\bxox[abeprs]-[\w-]{10,}|hooks\.slack\.com/services/[\w/]+"
    r"|\bsk-(?=[\w-]*\d)[\w-]{20,}|\b[sr]k_live_\w{16,}"
    r"|\bdapi[0-9a-f]{32}\b|\bnpm_[A-Za-z0-9]{36}\b|\bpypi-[\w-]{32,}|\bdckr_pat_[\w-]{16,}|\bhvs\.[\w-]{16,}"
)


def masked(value: Any) -> Any:
    """The same value with the secrets in its texts replaced by `***`, at any depth of mappings and lists.

    A secret is known by its place: between `://` and `@` of an address, after `password=`, `passphrase=`, `token=`,
    `secret=`, `api_key=`, `auth=` and the like, in an address also after `key=`, `sig=`, `code=` and more, or in a
    mapping under such a name. And it is known by its shape: the tokens that Hugging Face, GitHub, Amazon, Google and
    others give out, JSON web tokens, `Bearer ...`, private keys.
    """
    if isinstance(value, str):
        return _masked(value)
    if isinstance(value, Mapping):
        return {masked(key): MASK if _is_secret(key, inner) else masked(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [masked(inner) for inner in value]
    return value


def _masked(text: str) -> str:
    text = _SHAPES.sub(MASK, text)
    text = _BEARER.sub(rf"\1{MASK}", text)
    text = _USER_INFO.sub(f"{MASK}@", text)
    text = _ENCODED_USER_INFO.sub(rf"\1{MASK}\2", text)
    text = _BARE_USER_INFO.sub(rf"\1{MASK}@", text)
    return _NAMED.sub(rf"\1\2{MASK}", _QUERY.sub(rf"\1{MASK}", text))


def _is_secret(key: object, value: object) -> bool:
    return isinstance(key, str) and isinstance(value, str) and _NAMED.fullmatch(f"{key}=x") is not None
