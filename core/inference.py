"""Tensors made under ``torch.inference_mode``, of which autograd cannot keep any for a gradient."""

from typing import Any

import torch
from torch import Tensor


def outside_inference(value: Any) -> Any:
    """The value itself; or, of a tensor made in inference mode, a copy that a gradient can be computed with."""
    if not (isinstance(value, Tensor) and value.is_inference()):
        return value
    with torch.inference_mode(False):
        return value.clone()
