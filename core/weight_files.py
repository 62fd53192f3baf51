"""Why a folder's weights cannot be loaded as safetensors: pickled files, or another variant only."""

import json
from collections.abc import Collection
from pathlib import Path

_SAFE = ".safetensors"
_PICKLED = (".bin", ".ckpt", ".pt", ".pth")
_REMEDY = (
    "keystep reads safetensors alone, since unpickling can run any code. Save it as such where you trust it: "
    "pipe.save_pretrained(folder, safe_serialization=True)"
)


def weights_problem(place: str, variant: str | None = None, given: Collection[str] = ()) -> str | None:
    """What keeps a folder's pipeline from being loaded; None if nothing does, or if it is no folder of a pipeline.

    Args:
        place: a folder; a hub id is left to the hub.
        variant: asked for.
        given: components that are not loaded from there.
    """
    index = Path(place) / "model_index.json"
    if not index.is_file():
        return None
    try:
        parts = json.loads(index.read_text(encoding="utf-8"))
    except ValueError:
        return f"{index} is not JSON"
    loaded = [name for name, kind in parts.items() if isinstance(kind, list) and kind[-1] and name not in given]
    for folder in (Path(place) / name for name in loaded):
        files = [file.name for file in folder.iterdir()] if folder.is_dir() else []
        safe = [name for name in files if name.endswith(_SAFE)]
        if not safe and any(name.endswith(_PICKLED) for name in files):
            pickled = next(name for name in files if name.endswith(_PICKLED))
            return f"the weights in {folder.name} are pickled ({pickled}); {_REMEDY}"
        if safe and not any(_fits(name, variant) for name in safe):
            there = sorted({found for name in safe if (found := _variant(name)) is not None})
            return f"{folder.name} has weights of variant {' and '.join(there)} only; {_name_it(there)}"
    return None


def hub_hint(error: str, variant: str | None) -> str:
    """What to try after an error of the hub's download, or nothing."""
    if "safetensors" not in error and "variant" not in error:
        return ""
    asked = "" if variant is None else f" It was asked for variant {variant}."
    return f".{asked} If it has weights under another name, such as *.fp16.safetensors, {_name_it(['fp16'])}; {_REMEDY}"


def _name_it(variants: list[str]) -> str:
    return f'name it: variant="{variants[0]}" of load_pipeline and StepConfig, model.variant of a search'


def _fits(name: str, variant: str | None) -> bool:
    # diffusers takes a component's plain files where it has none of the variant.
    return _variant(name) in (None, variant)


def _variant(name: str) -> str | None:
    """The variant in the name of a file: model.fp16.safetensors, model.fp16-00001-of-00002.safetensors."""
    parts = name.removesuffix(_SAFE).split(".")
    if len(parts) < 2:
        return None
    return parts[-1].split("-")[0]
