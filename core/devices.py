"""Where models run."""

import torch


def usable_device(device: str | None = None) -> str:
    """The device if tensors can be put there; None is `cuda` where there is one, else `cpu`.

    Raises:
        ValueError: it cannot be used here; says what can.
    """
    usual = "cuda" if torch.cuda.is_available() else "cpu"
    if device is None:
        return usual
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # PyTorch without CUDA asserts
        reason = str(error).strip().splitlines()[0].split(". ")[0]
        raise ValueError(
            f"device {device!r} cannot be used here ({reason}): leave it out to use what there is, {usual}"
        ) from error
    return device
