"""Every way to fill a template's slots, numbered: the i-th without listing the others, and samples."""

import hashlib
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Assignments:
    """The fillings of slots that obey the rules, in lexicographic order of the value lists.

    `choices[k]` are slot k's values. `distinct` holds pairs (j, k), j < k, of slots that must not take the
    same value; `increasing` holds pairs whose values must come in list order (both slots then have the same
    list). Slots that no rule joins are numbered by mixed radix; within a group that rules join, each step
    counts its completions, so memory does not grow with the number of fillings (three coloured entities have
    1.46 million).
    """

    choices: tuple[tuple[str, ...], ...]
    distinct: frozenset[tuple[int, int]] = frozenset()
    increasing: frozenset[tuple[int, int]] = frozenset()
    _counts: dict[tuple[tuple[int, ...], tuple[frozenset[str], ...]], int] = field(
        default_factory=dict, repr=False, compare=False
    )

    def __len__(self) -> int:
        total = 1
        for group in self._groups():
            total *= self._count(group, self._nothing(group))
        return total

    def __getitem__(self, index: int) -> tuple[str, ...]:
        """The filling number `index`, one value a slot; IndexError outside -len..len-1."""
        size = len(self)
        if not -size <= index < size:
            raise IndexError(f"there are {size} fillings, number {index} is not one of them")
        rest = index % size
        filled: dict[int, str] = {}
        for group in reversed(self._groups()):  # the last group turns fastest
            rest, within = divmod(rest, self._count(group, self._nothing(group)))
            filled |= self._unrank(group, within)
        return tuple(filled[slot] for slot in range(len(self.choices)))

    def _groups(self) -> list[tuple[int, ...]]:
        """Slots joined by rules, directly or through others; each group and the groups in slot order."""
        group_of = list(range(len(self.choices)))
        for first, second in self.distinct | self.increasing:
            merged, gone = sorted((group_of[first], group_of[second]))
            group_of = [merged if group == gone else group for group in group_of]
        return [tuple(slot for slot, group in enumerate(group_of) if group == name) for name in sorted(set(group_of))]

    @staticmethod
    def _nothing(slots: tuple[int, ...]) -> tuple[frozenset[str], ...]:
        return (frozenset(),) * len(slots)

    def _after(
        self, slot: int, value: str, rest: tuple[int, ...], forbidden: tuple[frozenset[str], ...]
    ) -> tuple[frozenset[str], ...]:
        """What each of the `rest` of the slots may no longer take once `slot` has `value`."""
        updated = []
        for other, banned in zip(rest, forbidden, strict=True):
            values = self.choices[other]
            if (slot, other) in self.increasing:
                banned = banned | frozenset(values[: values.index(value) + 1])
            elif (slot, other) in self.distinct and value in values:
                banned = banned | {value}
            updated.append(banned)
        return tuple(updated)

    def _count(self, slots: tuple[int, ...], forbidden: tuple[frozenset[str], ...]) -> int:
        if not slots:
            return 1
        if len(slots) == 1:
            return len(self.choices[slots[0]]) - len(forbidden[0])
        if self._interchangeable(slots, forbidden):
            total, left = 1, len(self.choices[slots[0]]) - len(forbidden[0])
            for taken in range(len(slots)):
                total *= max(left - taken, 0)
            return total
        key = (slots, forbidden)
        if key not in self._counts:
            slot, rest = slots[0], slots[1:]
            self._counts[key] = sum(
                self._count(rest, self._after(slot, value, rest, forbidden[1:]))
                for value in self.choices[slot]
                if value not in forbidden[0]
            )
        return self._counts[key]

    def _interchangeable(self, slots: tuple[int, ...], forbidden: tuple[frozenset[str], ...]) -> bool:
        """Whether the slots have one list, the same values left, and must all differ: n!/(n-k)! ways."""
        same = all(self.choices[slot] == self.choices[slots[0]] for slot in slots) and len(set(forbidden)) == 1
        return same and all(
            (first, second) in self.distinct for k, first in enumerate(slots) for second in slots[k + 1 :]
        )

    def _unrank(self, group: tuple[int, ...], within: int) -> dict[int, str]:
        filled: dict[int, str] = {}
        forbidden = self._nothing(group)
        for position, slot in enumerate(group):
            rest = group[position + 1 :]
            for value in self.choices[slot]:
                if value in forbidden[0]:
                    continue
                after = self._after(slot, value, rest, forbidden[1:])
                completions = self._count(rest, after)
                if within < completions:
                    filled[slot], forbidden = value, after
                    break
                within -= completions
        assert len(filled) == len(group), "the count of completions and the fillings disagree"
        return filled


def sample_indices(population: int, num_samples: int, seed: int) -> list[int]:
    """`num_samples` different numbers of 0..population-1, in random order, the same on every platform.

    A Fisher-Yates shuffle that stores only what it moved, driven by SHA-256 of (seed, position): memory and
    time grow with the sample alone, and a smaller sample with the same seed is the beginning of a larger one.
    Raises ValueError if `num_samples` is below 1 or above `population`.
    """
    if not 1 <= num_samples <= population:
        raise ValueError(f"cannot sample {num_samples} of {population}: ask for 1 to {population}")
    moved: dict[int, int] = {}
    sampled = []
    for position in range(num_samples):
        digest = hashlib.sha256(f"{seed}:{position}".encode()).digest()
        drawn = position + int.from_bytes(digest, "big") % (population - position)
        sampled.append(moved.get(drawn, drawn))
        moved[drawn] = moved.get(position, position)
    return sampled
