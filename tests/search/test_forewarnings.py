"""What is said of a search before its trials: counted by hand, on every kind of space."""

import itertools
from typing import Any

import pytest

from keystep.search.checks.forewarnings import forewarnings
from keystep.search.spec.instances import make_parts
from keystep.search.spec.search_spec import SearchSpec
from tests.search.found_search import outcomes, part
from tests.search.small_search import TIMESTEPS, make_spec

ENOUGH: dict[str, Any] = {"held_out": 12}


def said(spec: SearchSpec, unrefined: dict[int, float] | None = None) -> list[str]:
    return forewarnings(spec, TIMESTEPS, make_parts(spec)[1], unrefined)


@pytest.mark.parametrize(
    ("held_out", "trials", "word", "enough"),
    [
        # Two sets. A sign-flip test over n prompts has 2^n flips, one of which is as good as all better: p = 2^-n. Holm
        # doubles it for winner and runner-up. 2 * 2^-6 = 0.03 is the first below 0.05: three prompts of each set.
        (1, 12, "never", 3),  # 2^-2 = 0.25 even for one alone
        (2, 12, "never", 3),  # 2^-4 = 0.0625 for one alone
        (3, 12, "", 0),
        (2, 1, "never", 3),  # a single trial, but GSNg alone is a second setting
    ],
)
def test_prompts_that_can_never_show_a_gain(tmp_path, held_out: int, trials: int, word: str, enough: int) -> None:
    found = said(make_spec(tmp_path, prompts={"held_out": held_out}, search={"trials": trials}))
    if not word:
        assert found == []
        return
    (text,) = found
    assert text.startswith(f"{2 * held_out} held-out prompts can {word} show a gain")
    assert f"p = {2 * 2.0 ** -(2 * held_out):.2g}," in text and f"prompts.held_out to {enough} or more" in text


def test_the_only_setting_is_not_adjusted(tmp_path) -> None:
    alone = {"space": {"gsng": ["off"]}, "prompts": {"sets": ["shapes_two"], "held_out": 5}}
    assert said(make_spec(tmp_path, **alone, search={"trials": 1})) == []  # 2^-5 = 0.03
    (text,) = said(make_spec(tmp_path, **alone, search={"trials": 2}))  # 2 * 2^-5 = 0.06
    assert text.startswith("5 held-out prompts can hardly show a gain") and "prompts.held_out to 6 or more" in text


def test_an_alpha_that_the_test_never_reaches(tmp_path) -> None:
    (text,) = said(make_spec(tmp_path, prompts={"held_out": 20}, search={"alpha": 1e-4}))
    assert "above search.alpha 0.0001" in text and "raise search.alpha to 0.0002 or more" in text


def test_a_model_that_is_always_wrong_or_always_right(tmp_path) -> None:
    spec, validation = make_spec(tmp_path, prompts=ENOUGH), part("validation")
    (none,) = said(spec, outcomes(validation, lambda *_: False))
    assert "on none of the 48 validation images" in none
    (all_,) = said(spec, outcomes(validation, lambda *_: True))
    assert "on all of the 48 validation images: there is nothing to repair" in all_
    assert said(spec, outcomes(validation, lambda prompt, _: prompt == 0)) == []


def test_a_grid_that_is_cut_names_what_is_left_out(tmp_path) -> None:
    # Steps turn fastest, then guidance, then iterations: 9 x 2 x 2 = 36 settings.
    space = {"gsng": ["off", "on"], "iterations": [5, 10]}
    (text,) = said(make_spec(tmp_path, prompts=ENOUGH, space=space, search={"sampler": "grid", "trials": 24}))
    order = itertools.product((5, 10), ("off", "on"), range(9))
    left = list(order)[24:]
    assert left[0] == (10, "off", 6)
    assert text == (
        "search.trials 24 cuts the grid of 36 settings short: 12 are left out, the last in its order: "
        "gsng off, iterations 10 at steps 6, 7, 8; gsng on, iterations 10 at every step."
    )
    for sampler, trials in (("tpe", 24), ("grid", 36), ("grid", 40)):
        assert not said(make_spec(tmp_path, prompts=ENOUGH, space=space, search={"sampler": sampler, "trials": trials}))


def test_a_long_list_of_what_is_left_out_is_short(tmp_path) -> None:
    space = {"gsng": ["off"], "steps": [4], "iterations": list(range(1, 21))}
    (text,) = said(make_spec(tmp_path, prompts=ENOUGH, space=space, search={"sampler": "grid", "trials": 3}))
    assert text.endswith("iterations 4; iterations 5; iterations 6; iterations 7; and 13 more such.")
    (text,) = said(
        make_spec(tmp_path, prompts=ENOUGH, space={"gsng": ["off"]}, search={"sampler": "grid", "trials": 8})
    )
    assert text.endswith("1 are left out, the last in its order: step 8.")
