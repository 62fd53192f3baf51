"""Instances come in the same blocks everywhere; the parts share nothing; the objective is the mean of means."""

import hashlib
import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keystep.core.prompts import Entity, Prompt
from keystep.evaluation.prompt_sets import PromptSet, noun_set
from keystep.search.spec.instances import Part, make_part, make_parts
from keystep.search.spec.search_spec import SearchSpec
from tests.search.specs import plain, small_spec

ALL = ["shapes_two", "shapes_two_colored", "shapes_three", "shapes_three_colored"]


def spec_of(sets: list[str], validation: int, held_out: int, **prompts: object) -> SearchSpec:
    changes = {"sets": sets, "validation": validation, "held_out": held_out, **prompts}
    return small_spec(prompts={**plain()["prompts"], **changes})


def tiny_set(name: str, size: int) -> PromptSet:
    return PromptSet(name, tuple(Prompt(f"{name} {index}", (Entity(name),)) for index in range(size)))


def combinations(sets: tuple[PromptSet, ...]) -> set[tuple[str, ...]]:
    return {noun_set(prompt) for prompts in sets for prompt in prompts}


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    seeds=st.lists(st.integers(0, 99), min_size=1, max_size=3, unique=True),
    block_prompts=st.integers(1, 5),
    order_seed=st.integers(0, 2**32 - 1),
)
def test_blocks_hold_whole_prompts_of_every_set(sizes, seeds, block_prompts, order_seed):
    sets = [tiny_set(f"set{place}", size) for place, size in enumerate(sizes)]
    part = make_part("validation", sets, seeds, block_prompts, order_seed)
    assert [instance.number for instance in part.instances] == list(range(sum(sizes) * len(seeds)))
    asked = {(prompts.name, prompt, seed) for prompts in sets for prompt in prompts for seed in seeds}
    assert {(i.set_name, i.prompt, i.seed) for i in part.instances} == asked
    assert len(part.blocks) == -(-max(sizes) // block_prompts)
    for place, block in enumerate(part.blocks):
        for prompts, size in zip(sets, sizes, strict=True):
            ours = [i for i in block if i.set_name == prompts.name]
            left = min(block_prompts, max(0, size - place * block_prompts))
            assert len(ours) == left * len(seeds)
        for first in range(0, len(block), len(seeds)):
            row = block[first : first + len(seeds)]
            assert len({i.prompt for i in row}) == 1 and [i.seed for i in row] == list(seeds)


@settings(max_examples=30, deadline=None)
@given(
    order_seed=st.integers(0, 2**32 - 1), shuffled=st.integers(0, 999), seeds=st.sampled_from([(0,), (5, 6)]),
    block_prompts=st.integers(1, 8),
)  # fmt: skip
def test_the_order_of_prompts_depends_on_the_seed_alone(order_seed, shuffled, seeds, block_prompts):
    prompts = tiny_set("set", 8)
    other = PromptSet("other name", tuple(random.Random(shuffled).sample(prompts.prompts, 8)))
    here = make_part("validation", [prompts], (0,), 8, order_seed)
    there = make_part("held_out", [other], seeds, block_prompts, order_seed)
    assert [i.prompt for i in here.instances] == [i.prompt for i in there.instances[:: len(seeds)]]


def test_another_seed_is_another_order():
    orders = {
        tuple(i.prompt for i in make_part("validation", [tiny_set("a", 8)], (0,), 8, s).instances) for s in range(9)
    }
    assert len(orders) == 9


def test_prompts_alternate_between_the_sets():
    part = make_part("validation", [tiny_set("a", 4), tiny_set("b", 4)], (0, 1), 4, 0)
    assert [i.set_name for i in part.instances[::2]] == ["a", "b"] * 4 == list(part.set_names)


@settings(max_examples=25, deadline=None)
@given(
    sets=st.lists(st.sampled_from(ALL), min_size=1, max_size=4, unique=True),
    validation=st.integers(1, 20),
    held_out=st.integers(1, 20),
    sample_seed=st.integers(0, 999),
)
def test_the_parts_share_no_prompt_and_no_combination_of_nouns(sets, validation, held_out, sample_seed):
    ours, theirs = make_parts(spec_of(sets, validation, held_out, sample_seed=sample_seed))
    assert [len(prompts) for prompts in ours.sets] == [validation] * len(sets)
    assert [len(prompts) for prompts in theirs.sets] == [held_out] * len(sets)
    assert [prompts.name for prompts in ours.sets] == sets == [prompts.name for prompts in theirs.sets]
    # Of all sets together: two-noun sets share their combinations, three-noun sets theirs.
    assert not combinations(ours.sets) & combinations(theirs.sets)
    assert {i.prompt for i in ours.instances}.isdisjoint(i.prompt for i in theirs.instances)


def test_the_sizes_of_the_built_in_search_fit():
    ours, theirs = make_parts(spec_of(ALL, 16, 24))
    assert not combinations(ours.sets) & combinations(theirs.sets)
    # Mirrored prompts stay together, so 16 prompts have 8 to 16 of the 28 pairs.
    assert 8 <= len(combinations(ours.sets[:1])) <= 16


def test_parts_are_the_same_again_and_differ_by_seed():
    spec = spec_of(ALL, 6, 8)
    assert make_parts(spec) == make_parts(spec)
    assert make_parts(spec)[0].sets != make_parts(spec_of(ALL, 6, 8, sample_seed=1))[0].sets
    reordered = small_spec(prompts=spec.prompts.model_dump(mode="json"), search__seed=1)
    before, after = make_parts(spec)[0], make_parts(reordered)[0]
    assert before.sets == after.sets and before.instances != after.instances


@pytest.mark.parametrize(("validation", "held_out"), [(28, 28), (16, 40), (2, 54), (54, 2)])
def test_the_largest_parts_there_can_be(validation, held_out):
    """28 pairs of two prompts each: the whole set is used up."""
    ours, theirs = make_parts(spec_of(["shapes_two"], validation, held_out))
    assert len(ours.sets[0]) == validation and len(theirs.sets[0]) == held_out


@pytest.mark.parametrize(
    ("validation", "held_out", "left"), [(29, 27, 28), (17, 40, 16), (1, 55, 0), (1, 56, 0), (50, 50, 6)]
)
def test_parts_that_do_not_fit_say_what_would(validation, held_out, left):
    with pytest.raises(ValueError, match=f"'shapes_two' has 56 prompts of 28 combinations.* {left} are left") as error:
        make_parts(spec_of(["shapes_two"], validation, held_out))
    assert "prompts.validation" in str(error.value) and "lower one" in str(error.value)


def write_prompts(path: Path, pairs: list[tuple[str, str]]) -> str:
    rows = "".join(f"a {first} and a {second},{first},{second}\n" for first, second in pairs)
    path.write_text(f"prompt,entity1,entity2\n{rows}")
    return str(path)


def test_sets_without_a_common_split_are_split_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """A threshold that parts the two pairs of one set cannot part those of the other, if they all come later."""

    def place(pair: tuple[str, str]) -> bytes:
        return hashlib.sha256(repr((0, tuple(sorted(pair)))).encode()).digest()

    pairs = sorted([(f"n{number}", f"m{number}") for number in range(4)], key=place)
    early, late = write_prompts(tmp_path / "early.csv", pairs[:2]), write_prompts(tmp_path / "late.csv", pairs[2:])
    ours, theirs = make_parts(spec_of([early, late], 1, 1))
    assert "no common split" in caplog.text
    for validation, held_out in zip(ours.sets, theirs.sets, strict=True):
        assert not combinations((validation,)) & combinations((held_out,))


def test_files_that_cannot_be_used_are_named(tmp_path: Path):
    pairs = [("cat", "dog"), ("owl", "bear"), ("cow", "fox"), ("ant", "bee")]
    here = write_prompts(tmp_path / "mine.csv", pairs)
    with pytest.raises(ValueError, match=r"prompts\.sets: nothing\.csv: no such file"):
        make_parts(spec_of(["nothing.csv"], 1, 1))
    (tmp_path / "other").mkdir()
    there = write_prompts(tmp_path / "other" / "mine.csv", pairs)
    with pytest.raises(ValueError, match=r"prompts\.sets: .* are both called 'mine': rename"):
        make_parts(spec_of([here, there], 1, 1))
    again = write_prompts(tmp_path / "again.csv", pairs)
    with pytest.raises(ValueError, match="is in 'mine' and in 'again', and would count twice"):
        make_parts(spec_of([here, again], 2, 2))
    (tmp_path / "bad.csv").write_text("prompt,entity1\na cat,dog\n")
    with pytest.raises(ValueError, match=r"prompts\.sets: .*bad\.csv, line 2: entity 'dog' is not in the prompt"):
        make_parts(spec_of([str(tmp_path / "bad.csv")], 1, 1))


def test_a_template_of_ones_own(tmp_path: Path):
    (tmp_path / "animals.yaml").write_text(
        "template: $ind_ar1 $entity1 with $ind_ar2 $entity2\nunique: [[entity1, entity2]]\n"
        "entities: [cat, dog, owl, fox, bear]\n"
    )
    ours, theirs = make_parts(spec_of([str(tmp_path / "animals.yaml")], 8, 10))
    assert ours.sets[0].name == "animals" and not combinations(ours.sets) & combinations(theirs.sets)


@pytest.fixture(scope="module")
def part() -> Part:
    return make_part("validation", [tiny_set("a", 3), tiny_set("b", 2)], (4, 5), 2, 0)


def test_the_matrix_has_prompts_in_block_order(part: Part):
    assert list(part.set_names) == ["a", "b", "a", "b", "a"]
    matrix = part.outcome_matrix({0: 1.0, 3: 0.0, 9: 0.5})
    expected = np.full((5, 2), np.nan)
    expected[0, 0], expected[1, 1], expected[4, 1] = 1.0, 0.0, 0.5
    np.testing.assert_array_equal(matrix, expected)
    by_set = part.set_matrices({0: 1.0, 3: 0.0, 9: 0.5})
    np.testing.assert_array_equal(by_set["a"], expected[[0, 4]])
    np.testing.assert_array_equal(by_set["b"], expected[[1]])


def test_the_objective_by_hand(part: Part):
    # a: prompts of mean 1/2, 1 and 0; b: prompts of mean 0 and 1/2. Mean over sets of 1/2 and 1/4.
    values = dict(enumerate([1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0]))
    assert part.objective(values) == pytest.approx(0.375)
    # Only the first prompt of each, and one seed of b's: mean of 1/2 and 1.
    assert part.objective({0: 1.0, 1: 0.0, 2: 1.0}) == pytest.approx(0.75)


def test_an_objective_needs_every_set_and_known_instances(part: Part):
    with pytest.raises(ValueError, match="no outcome of set 'b' in the validation part"):
        part.objective({0: 1.0})
    for number in (-1, 10):
        with pytest.raises(ValueError, match=f"has instances 0..9, and none is number {number}"):
            part.outcome_matrix({number: 1.0})


def test_any_beginning_holds_each_sets_share():
    part = make_parts(spec_of(ALL, 6, 8))[0]
    counts = [[part.set_names[:end].count(name) for name in ALL] for end in range(1, 25)]
    assert all(max(count) - min(count) <= 1 for count in counts)
    assert all(sum(after) - sum(before) == 1 for before, after in pairwise(counts))
