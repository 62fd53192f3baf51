"""Why a model cannot be had, asked of the hub in seconds and told case by case.

The libraries that load models try an unreachable hub again for half a minute, and wrap what it says in texts that
leave a private, a gated and a missing model the same. `hub_trouble` asks once, beforehand or afterwards.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PATIENCE = 10.0  # seconds for the hub to answer
_WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|model)(?:-\d{5}-of-\d{5})?(?:\.(?P<variant>\w+))?(?:-\d{5}-of-\d{5})?\.safetensors"
)


def hub_trouble(model: str, *, revision: str | None = None, file: str = "model_index.json") -> str | None:
    """What is wrong with a hub model, as a sentence that says what to do; None if it, or this machine's cache, has it.

    Args:
        model: owner/name. A folder that exists has no trouble with the hub.
        revision: branch, tag or commit; None is the newest.
        file: that the model must have.
    """
    from huggingface_hub import errors, get_hf_file_metadata, get_token, hf_hub_url

    if os.path.isdir(model) or _is_cached(model, file, revision):
        return None
    try:
        get_hf_file_metadata(hf_hub_url(model, file, revision=revision), timeout=PATIENCE)
    except errors.HFValidationError:
        return f"{model!r} is neither a folder that is here nor a hub id, which is OWNER/NAME"
    except errors.OfflineModeIsEnabled:
        return (
            f"{model!r} is not in this machine's cache, and HF_HUB_OFFLINE forbids asking the hub: unset it, or fetch "
            f"the model where there is a network (hf download {model}), or give the folder that holds it"
        )
    except errors.GatedRepoError:
        page = f"{_endpoint()}/{model}"
        if get_token() is None:
            return f"{model!r} is gated: accept its licence at {page}, then set HF_TOKEN, or run hf auth login"
        return f"{model!r} is gated, and the account of your HF_TOKEN has no access: ask for it at {page}"
    except errors.RevisionNotFoundError:
        return f"{model!r} has no revision {revision!r}: name a branch, tag or commit of it, or none for the newest"
    except errors.RepositoryNotFoundError:
        if get_token() is None:
            return (
                f"the hub shows no model {model!r}: correct its name, or, if it is private, set HF_TOKEN or run "
                "hf auth login"
            )
        return f"the hub shows no model {model!r} to the account of your HF_TOKEN: correct its name, or ask for access"
    except errors.EntryNotFoundError:
        return f"{model!r} is on the hub, but has no {file}: it is another kind of model than is needed here"
    except errors.HfHubHTTPError as error:
        code = error.response.status_code
        if code in (401, 403):
            return f"the hub refuses your HF_TOKEN (status {code}): renew it, or unset it for a public model"
        return f"the hub at {_endpoint()} answers with status {code}: try again later"
    except (errors.HTTPError, OSError) as error:
        return (
            f"{model!r} is not in this machine's cache, and the hub at {_endpoint()} does not answer "
            f"({_first_line(error)}): check the network, HTTPS_PROXY and HF_ENDPOINT, or give the folder that holds it"
        )
    return None


def weights_trouble(model: str, *, revision: str | None = None, variant: str | None = None) -> str | None:
    """What is wrong with the weights of a model whose other files are there; None if nothing is, or nobody can say.

    Args:
        model: a folder, or a hub id.
        variant: of the weights that were asked for, such as "fp16"; None is the plain ones.
    """
    files = _files(model, revision)
    found = {match["variant"] for file in files if (match := _WEIGHTS.fullmatch(file.rpartition("/")[2]))}
    if variant in found:
        return None
    if found:
        others = ", ".join(sorted(name or "none (the plain ones)" for name in found))
        asked = f"no weights of variant {variant!r}" if variant else "no plain weights"
        return f"{model!r} has {asked}, only of variant {others}: set model.variant to one of these"
    if any(file.endswith((".bin", ".ckpt", ".pt", ".pth")) for file in files):
        return (
            f"{model!r} has pickled weights alone, which can run code and are not loaded: give a model with safetensors"
        )
    return None


def model_file(model: str, file: str, *, revision: str | None = None) -> Path:
    """The path of one small file of a model, from its folder, this machine's cache or the hub.

    Raises:
        ValueError: it cannot be had; says why, and what to do.
    """
    from huggingface_hub import errors, hf_hub_download

    if os.path.isdir(model):
        path = Path(model) / file
        if not path.is_file():
            raise ValueError(f"{model!r} is a folder without {file}")
        return path
    trouble = hub_trouble(model, revision=revision, file=file)
    if trouble is not None:
        raise ValueError(trouble)
    cached = _is_cached(model, file, revision)
    try:
        return Path(hf_hub_download(model, file, revision=revision, local_files_only=cached))
    except (errors.HTTPError, OSError) as error:
        raise ValueError(f"{file} of {model!r} could not be fetched ({_first_line(error)}): try again") from error


def _is_cached(model: str, file: str, revision: str | None) -> bool:
    from huggingface_hub import errors, try_to_load_from_cache

    try:
        return isinstance(try_to_load_from_cache(model, file, revision=revision), str)
    except errors.HFValidationError:
        return False


def _files(model: str, revision: str | None) -> Iterable[str]:
    """The paths in a model's folder or on the hub; none if they cannot be listed."""
    from huggingface_hub import HfApi, errors

    if os.path.isdir(model):
        return [path.relative_to(model).as_posix() for path in Path(model).rglob("*") if path.is_file()]
    try:
        listed: Any = HfApi().model_info(model, revision=revision, timeout=PATIENCE).siblings
    except (errors.HTTPError, errors.HFValidationError, OSError):
        return []
    return [sibling.rfilename for sibling in listed or ()]


def _endpoint() -> str:
    from huggingface_hub import constants

    return constants.ENDPOINT


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
