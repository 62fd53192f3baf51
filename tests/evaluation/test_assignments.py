"""Numbered fillings against brute force, and the sampling of numbers."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keystep.evaluation.assignments import Assignments, sample_indices


def brute_force(choices, distinct, increasing):
    return [
        values
        for values in itertools.product(*choices)
        if all(values[j] != values[k] for j, k in distinct)
        and all(choices[j].index(values[j]) < choices[k].index(values[k]) for j, k in increasing)
    ]


value_lists = st.lists(st.permutations("abcde").map(lambda p: tuple(p[:3])), min_size=1, max_size=4)


@settings(deadline=None, max_examples=80)
@given(choices=value_lists, data=st.data())
def test_fillings_are_exactly_those_that_obey_the_rules(choices, data):
    pairs = list(itertools.combinations(range(len(choices)), 2))
    distinct = data.draw(st.sets(st.sampled_from(pairs)) if pairs else st.just(set()))
    fillings = Assignments(tuple(choices), frozenset(distinct))
    ours = [fillings[number] for number in range(len(fillings))]
    assert len(set(ours)) == len(ours)
    assert set(ours) == set(brute_force(choices, distinct, ()))


@pytest.mark.parametrize("num_slots", [1, 2, 3])
def test_increasing_fillings_are_the_combinations(num_slots):
    values = tuple("vwxyz")
    rule = frozenset(itertools.combinations(range(num_slots), 2))
    fillings = Assignments((values,) * num_slots, increasing=rule)
    assert [fillings[k] for k in range(len(fillings))] == list(itertools.combinations(values, num_slots))


def test_permutations_come_in_lexicographic_order():
    values = tuple("abcdef")
    fillings = Assignments((values,) * 3, frozenset({(0, 1), (0, 2), (1, 2)}))
    assert [fillings[k] for k in range(len(fillings))] == list(itertools.permutations(values, 3))
    assert fillings[-1] == ("f", "e", "d")
    with pytest.raises(IndexError, match="there are 120 fillings"):
        fillings[120]


def test_millions_of_fillings_are_counted_and_reached_at_once():
    nouns, colors = tuple(f"noun{k:02d}" for k in range(80)), tuple(f"color{k}" for k in range(10))
    apart = frozenset({(0, 1), (0, 2), (1, 2), (3, 4), (3, 5), (4, 5)})
    fillings = Assignments((nouns,) * 3 + (colors,) * 3, apart)
    assert len(fillings) == 80 * 79 * 78 * 10 * 9 * 8
    assert fillings[len(fillings) - 1] == ("noun79", "noun78", "noun77", "color9", "color8", "color7")
    assert fillings[720] == ("noun00", "noun01", "noun03", "color0", "color1", "color2")


@given(population=st.integers(1, 60), seed=st.integers(0, 5), data=st.data())
def test_samples_do_not_repeat_and_smaller_ones_begin_larger_ones(population, seed, data):
    size = data.draw(st.integers(1, population))
    everything = sample_indices(population, population, seed)
    assert sorted(everything) == list(range(population))
    assert sample_indices(population, size, seed) == everything[:size]


def test_samples_are_what_they_have_always_been():
    # By hand from the definition: SHA-256("7:0") % 10**18 and so on, no two of them colliding.
    import hashlib

    drawn = [
        position + int(hashlib.sha256(f"7:{position}".encode()).hexdigest(), 16) % (10**18 - position)
        for position in range(3)
    ]
    assert sample_indices(10**18, 3, seed=7) == drawn


def test_each_number_is_drawn_first_about_equally_often():
    counts = [0] * 5
    for seed in range(1000):
        counts[sample_indices(5, 2, seed)[1]] += 1
    assert all(150 < count < 250 for count in counts)  # 200 expected, standard deviation 12.6


@pytest.mark.parametrize("size", [0, 11])
def test_samples_larger_than_the_population_are_refused(size):
    with pytest.raises(ValueError, match=f"cannot sample {size} of 10: ask for 1 to 10"):
        sample_indices(10, size, 0)
