"""LAION's aesthetic head: a guard that shows when a setting wins alignment by ruining pictures."""

import hashlib
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file

# What the three readers raise for files that are cut off, of another kind, or hold more than tensors.
UNREADABLE = (
    SafetensorError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    ValueError,
    OSError,
    EOFError,
    RuntimeError,
)


class AestheticHead:
    """A linear layer on a CLIP's normalised image embeddings (LAION's is of ViT-L/14, roughly 1 to 10).

    Args:
        path: `.safetensors`, `.npz`, or `.pth` as LAION ships it (read as tensors alone, never as code), holding
            `weight` (1, D) and `bias` (1,).

    Attributes:
        name: of the file.
        width: D.
        fingerprint: of its numbers.

    Raises:
        ValueError: if the file is missing, unreadable or does not hold one linear layer with one output.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        arrays = _read(Path(path))
        if set(arrays) != {"weight", "bias"}:
            raise ValueError(f"{path} must hold exactly weight and bias, got {', '.join(sorted(arrays)) or 'nothing'}")
        weight, bias = arrays["weight"], arrays["bias"]
        if weight.ndim != 2 or weight.shape[0] != 1 or bias.shape != (1,):
            raise ValueError(f"{path} must hold weight (1, D) and bias (1,), got {weight.shape} and {bias.shape}")
        self._weight, self._bias = weight[0].astype(np.float32), np.float32(bias[0])
        self.name, self.width = Path(path).name, len(self._weight)
        self.fingerprint = hashlib.sha256(self._weight.tobytes() + self._bias.tobytes()).hexdigest()[:16]

    def scores(self, image_features: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N,) scores of (N, D) embeddings of length 1 (`ClipScorer.image_features`); higher is better.

        Raises:
            ValueError: if D is not the head's.
        """
        self.check_width(image_features.shape[1])
        return image_features @ self._weight + self._bias

    def check_width(self, width: int) -> None:
        """Refuse embeddings of another width, which are of another CLIP.

        Raises:
            ValueError: says both widths.
        """
        if width != self.width:
            raise ValueError(
                f"the aesthetic head reads embeddings of {self.width} numbers, got {width}; "
                "use the CLIP it was made for"
            )


def _read(path: Path) -> dict[str, NDArray[np.floating]]:
    if not path.is_file():
        raise ValueError(f"no aesthetic head at {path}")
    try:
        if path.suffix == ".safetensors":
            return {name: tensor.float().numpy() for name, tensor in load_file(path).items()}
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        if path.suffix == ".pth":
            tensors = torch.load(path, map_location="cpu", weights_only=True)
            return {name: tensor.float().numpy() for name, tensor in tensors.items()}
    except UNREADABLE as error:
        raise ValueError(f"{path} cannot be read as an aesthetic head: {error}") from error
    raise ValueError(f"{path} must be a .safetensors, .npz or .pth file")
