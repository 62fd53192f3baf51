"""How `from_pretrained` of the diffusers at hand is told the dtype of the weights."""

import diffusers
import torch

RENAMED = (0, 40)  # the diffusers release in which `torch_dtype` became `dtype`; later ones warn about the old name


def dtype_argument(dtype: torch.dtype) -> dict[str, torch.dtype]:
    """`{"dtype": dtype}`, or `{"torch_dtype": dtype}` for a diffusers before 0.40, which ignores the other."""
    release = tuple(int(part) for part in diffusers.__version__.split(".")[:2])
    return {"dtype" if release >= RENAMED else "torch_dtype": dtype}
