"""Give every entity an instance of its own: what "two cats" asks for when there is one cat in the picture.

Entities with the same noun compete for that noun's instances. An instance serves one entity, coloured
entities take an instance of their colour where they can, as many entities as possible are served (a maximum
bipartite matching by augmenting paths), and where they cannot all be, the one named first in the prompt is.
Entities that got no instance of their colour are then found with whatever instances of the noun are left, so
an entity that is bound is found.
"""

import numpy as np
from numpy.typing import NDArray


def match_entities(
    right_label: NDArray[np.bool_], right_color: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which entities are found, and which of them are bound.

    Args:
        right_label: (E, N) bool, instance n has entity e's label.
        right_color: (E, N) bool, label and colour are right; as `right_label` where no colour is asked.

    Returns:
        found (E,), bound (E,): bool.
    """
    owners: dict[int, int] = {}
    bound = np.array([_serve(entity, right_color, owners, set()) for entity in range(len(right_color))], bool)
    found = np.array(
        [bound[entity] or _serve(entity, right_label, owners, set(owners)) for entity in range(len(right_label))],
        bool,
    )
    return found, bound


def _serve(entity: int, suits: NDArray[np.bool_], owners: dict[int, int], tried: set[int]) -> bool:
    """Give `entity` an untried instance that suits it, moving other entities on if need be."""
    for instance in np.flatnonzero(suits[entity]).tolist():
        if instance in tried:
            continue
        tried.add(instance)
        if instance not in owners or _serve(owners[instance], suits, owners, tried):
            owners[instance] = entity
            return True
    return False
