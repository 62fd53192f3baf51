"""An estimate with its interval, for tables."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keystep.evaluation.statistics import Estimate


def percent_with_interval(estimate: "Estimate") -> str:
    """As in "44.7 [42.1, 47.3]", per cent."""
    return f"{100 * estimate.mean:.1f} [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"
