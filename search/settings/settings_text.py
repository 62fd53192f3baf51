"""A setting in a few words, for tables and messages."""

from collections.abc import Sequence

from keystep.core.config import AttentionChoice, GSNg, IterRef, LossWeights, Refinement


def setting_text(refinement: Refinement | None, timesteps: Sequence[float] | None = None) -> str:
    """What a refinement does, as in "step 5 (t 701), 10 iterations, GSNg"; of the rest only what is not usual.

    Args:
        refinement: None is the unrefined model.
        timesteps: of the schedule, to tell the step's own; None leaves it out.
    """
    if refinement is None or (refinement.iterref is None and refinement.gsng is None):
        return "unrefined"
    parts = []
    iterref, gsng = refinement.iterref, refinement.gsng
    if iterref is not None:
        at = "" if timesteps is None else f" (t {timesteps[iterref.step_index]:g})"
        parts.append(f"step {iterref.step_index}{at}")
        parts.append(f"{iterref.iterations} iteration{'s' if iterref.iterations > 1 else ''}")
        parts += _unusual(iterref, "step_size", "optimizer", "threshold", "schedule")
    if gsng is not None:
        last = "half" if gsng.stop is None else str(gsng.stop - 1)
        steps = "" if (gsng.start, gsng.stop) == (0, None) else f" {gsng.start}-{last}"
        parts.append(" ".join(["GSNg" + steps, *_unusual(gsng, "step_size", "schedule")]))
    parts += _unusual(refinement.weights, "cn", "iou")
    parts += _unusual(refinement.attention, "layers", "resolution")
    return ", ".join(parts)


def _unusual(value: IterRef | GSNg | LossWeights | AttentionChoice, *names: str) -> list[str]:
    """`name value` of the fields that are not at their defaults."""
    shown = []
    for name in names:
        given = getattr(value, name)
        if given != type(value).model_fields[name].default:
            shown.append(f"{name.replace('_', ' ')} {f'{given:.4g}' if isinstance(given, float) else given}")
    return shown
