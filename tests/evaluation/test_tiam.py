"""TIAM on hand-made masks with known answers, one rule a test, and against a slow oracle on random ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from keystep.core.prompts import Entity, Prompt
from keystep.evaluation.colors import PALETTES
from keystep.evaluation.detections import Instance, measure
from keystep.evaluation.tiam import CONFIDENCES, TiamSettings, score_detections
from tests.evaluation import oracle

RED, GREEN, BLUE = (140, 17, 22), (0, 120, 70), (0, 116, 176)  # near the paper's references
CAT_AND_DOG = Prompt("a cat and a dog", (Entity("cat"), Entity("dog")))
RED_CAT_GREEN_DOG = Prompt("a red cat and a green dog", (Entity("cat", "red"), Entity("dog", "green")))
ONE = TiamSettings(confidences=(0.25,))


def area(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros((10, 10), bool)
    mask[y0:y1, x0:x1] = True
    return mask


LEFT, RIGHT, TOP = area(0, 0, 5, 10), area(5, 0, 10, 10), area(0, 0, 10, 5)


def instance(label: str, score: float, mask: np.ndarray) -> Instance:
    return Instance(label, score, (0.0, 0.0, 1.0, 1.0), mask)


def picture(left: tuple[int, int, int] = RED, right: tuple[int, int, int] = GREEN) -> Image.Image:
    pixels = np.zeros((10, 10, 3), np.uint8)
    pixels[LEFT], pixels[RIGHT] = left, right
    return Image.fromarray(pixels)


def score(instances: list[Instance], prompt: Prompt, config: TiamSettings = ONE, image: Image.Image | None = None):
    return score_detections(measure(image or picture(), instances), prompt, config)


def test_an_image_scores_if_every_entity_is_found():
    both = score([instance("cat", 0.9, LEFT), instance("dog", 0.9, RIGHT)], CAT_AND_DOG)
    assert both.tiam.tolist() == [True]
    one = score([instance("cat", 0.9, LEFT)], CAT_AND_DOG)
    assert one.found.tolist() == [[True, False]] and one.tiam.tolist() == [False]
    assert score([], CAT_AND_DOG).found.tolist() == [[False, False]]


def test_other_things_in_the_picture_do_not_matter():
    seen = [instance("cat", 0.9, LEFT), instance("dog", 0.9, RIGHT), instance("person", 0.9, TOP)]
    assert score(seen, CAT_AND_DOG).tiam.all()


def test_an_instance_counts_from_its_own_score_up():
    seen = [instance("cat", 0.9, LEFT), instance("dog", 0.6, RIGHT)]
    found = score(seen, CAT_AND_DOG, TiamSettings()).found
    assert found[:, 0].tolist() == [True] * 7 + [False]
    assert found[:, 1].tolist() == [True] * 4 + [False] * 4  # at exactly 0.6, too


def test_the_default_grid_is_the_published_one():
    assert CONFIDENCES == (0.25, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
    assert TiamSettings().confidences == CONFIDENCES


def test_labels_and_nouns_meet_under_their_aliases():
    prompt = Prompt("a sofa and a TV monitor", (Entity("sofa"), Entity("TV monitor")))
    assert score([instance("couch", 0.9, LEFT), instance("tv", 0.9, RIGHT)], prompt).tiam.all()


def test_coloured_entities_need_their_colour():
    seen = [instance("cat", 0.9, LEFT), instance("dog", 0.9, RIGHT)]
    assert score(seen, RED_CAT_GREEN_DOG).tiam.all()
    swapped = score(seen, RED_CAT_GREEN_DOG, image=picture(GREEN, RED))
    assert swapped.all_found.all() and not swapped.tiam.any()
    assert swapped.bound.tolist() == [[False, False]]


@pytest.mark.parametrize(("rows", "bound"), [(4, True), (3, False)])
def test_forty_percent_of_the_mask_is_enough(rows, bound):
    pixels = np.full((10, 10, 3), GREEN, np.uint8)
    pixels[:rows] = RED
    prompt = Prompt("a red cat", (Entity("cat", "red"),))
    everything = area(0, 0, 10, 10)
    assert score([instance("cat", 0.9, everything)], prompt, image=Image.fromarray(pixels)).bound.item() is bound


def test_one_instance_of_the_right_colour_is_enough():
    seen = [instance("cat", 0.9, RIGHT), instance("cat", 0.3, LEFT)]
    prompt = Prompt("a red cat", (Entity("cat", "red"),))
    settings_ = TiamSettings(confidences=(0.25, 0.5))
    assert score(seen, prompt, settings_).bound.tolist() == [[True], [False]]


def test_entities_without_a_colour_are_bound_when_found():
    prompt = Prompt("a red cat and a dog", (Entity("cat", "red"), Entity("dog")))
    seen = [instance("cat", 0.9, RIGHT), instance("dog", 0.9, RIGHT)]
    assert score(seen, prompt).bound.tolist() == [[False, True]]


def test_palettes_differ_where_they_should():
    seen = [instance("cat", 0.9, LEFT)]
    prompt = Prompt("a blue cat", (Entity("cat", "blue"),))
    pure = picture(left=(0, 0, 255))
    assert not score(seen, prompt, ONE, pure).tiam.any()
    assert score(seen, prompt, TiamSettings((0.25,), palette="extended"), pure).tiam.all()


@pytest.mark.parametrize(
    ("superposed", "found"),
    [("none", [True, True]), ("drop_both", [False, False]), ("keep_best", [True, False])],
)
def test_superposed_instances(superposed, found):
    seen = [instance("cat", 0.9, LEFT), instance("dog", 0.8, LEFT)]
    assert score(seen, CAT_AND_DOG, TiamSettings((0.25,), superposed)).found.tolist() == [found]


def test_superposed_instances_are_those_that_reach_the_confidence():
    seen = [instance("cat", 0.9, LEFT), instance("dog", 0.5, LEFT)]
    settings_ = TiamSettings((0.25, 0.7), "drop_both")
    assert score(seen, CAT_AND_DOG, settings_).found.tolist() == [[False, False], [True, False]]


def test_equally_sure_superposed_instances_are_both_kept():
    seen = [instance("cat", 0.9, LEFT), instance("dog", 0.9, LEFT)]
    assert score(seen, CAT_AND_DOG, TiamSettings((0.25,), "keep_best")).tiam.all()


def test_superposed_needs_the_overlap_and_two_labels():
    nearly = LEFT.copy()
    nearly[0, :] = False  # 45 of 50 pixels: 0.9
    seen = [instance("cat", 0.9, LEFT), instance("dog", 0.8, nearly)]
    assert score(seen, CAT_AND_DOG, TiamSettings((0.25,), "drop_both")).tiam.all()
    assert not score(seen, CAT_AND_DOG, TiamSettings((0.25,), "drop_both", superposed_iou=0.9)).tiam.any()
    twins = [instance("cat", 0.9, LEFT), instance("cat", 0.8, LEFT), instance("dog", 0.9, RIGHT)]
    assert score(twins, CAT_AND_DOG, TiamSettings((0.25,), "drop_both")).tiam.all()


def test_the_same_noun_twice_needs_two_instances():
    two_cats = Prompt("a red cat and a green cat", (Entity("cat", "red"), Entity("cat", "green")))
    assert score([instance("cat", 0.9, LEFT), instance("cat", 0.9, RIGHT)], two_cats).tiam.all()
    one = score([instance("cat", 0.9, RIGHT)], two_cats)
    assert one.found.tolist() == [[False, True]] and one.bound.tolist() == [[False, True]]
    same = score([instance("cat", 0.9, LEFT), instance("cat", 0.8, LEFT)], two_cats)
    assert same.found.tolist() == [[True, True]] and same.bound.tolist() == [[True, False]]


def test_a_plain_entity_leaves_the_coloured_one_its_instance():
    prompt = Prompt("a cat and a red cat", (Entity("cat"), Entity("cat", "red")))
    seen = [instance("cat", 0.9, LEFT), instance("cat", 0.8, RIGHT)]  # red, green
    assert score(seen, prompt).bound.tolist() == [[True, True]]


def test_empty_masks_are_no_instances():
    assert not score([instance("cat", 0.9, area(0, 0, 0, 0))], CAT_AND_DOG).found.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"confidences": ()}, "confidences must increase"),
        ({"confidences": (0.5, 0.25)}, "confidences must increase"),
        ({"confidences": (0.5, 1.5)}, r"within \[0, 1\]"),
        ({"superposed": "merge"}, "superposed must be one of none, drop_both, keep_best, got 'merge'"),
        ({"superposed_iou": 0.2}, r"superposed_iou must be in \[0.5, 1\]"),
        ({"color_share": 0.0}, r"color_share must be in \(0, 1\]"),
        ({"palette": "web"}, "choose one of tiam, extended"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        TiamSettings(**change)


def test_blind_scores_are_refused():
    kept = measure(picture(), [instance("cat", 0.9, LEFT)], min_score=0.3)
    with pytest.raises(ValueError, match=r"confidence 0.25 is below 0.3"):
        score_detections(kept, CAT_AND_DOG)
    with pytest.raises(ValueError, match="'nothing' has no entities"):
        score([], Prompt("nothing", ()))
    with pytest.raises(ValueError, match="no colour 'teal'"):
        score([], Prompt("a teal cat", (Entity("cat", "teal"),)))
    with pytest.raises(ValueError, match="10 x 5 px, the image 10 x 10 px"):
        measure(picture(), [instance("cat", 0.9, np.ones((5, 10), bool))])


NOUNS, COLORS = ["cat", "dog", "bird"], [None, "red", "green", "blue"]
SIDE = 4


@st.composite
def cases(draw):
    palette_colors = st.sampled_from([RED, GREEN, BLUE, (200, 60, 150), (128, 128, 128)])
    pixels = np.array(draw(st.lists(palette_colors, min_size=SIDE**2, max_size=SIDE**2)), np.uint8)
    masks = st.lists(st.booleans(), min_size=SIDE**2, max_size=SIDE**2).filter(any)
    few_masks = draw(st.lists(masks, min_size=1, max_size=3))
    seen = [
        Instance(label, confidence, (0, 0, 1, 1), np.array(mask).reshape(SIDE, SIDE))
        for label, confidence, mask in draw(
            st.lists(
                st.tuples(
                    st.sampled_from(NOUNS),
                    st.sampled_from([0.2, 0.25, 0.5, 0.55, 0.9]),
                    st.sampled_from(few_masks),
                ),
                max_size=4,
            )
        )
    ]
    entities = draw(
        st.lists(
            st.builds(Entity, noun=st.sampled_from(NOUNS), attribute=st.sampled_from(COLORS)),
            min_size=1,
            max_size=3,
        )
    )
    config = TiamSettings(
        confidences=(0.25, 0.5, 0.9),
        superposed=draw(st.sampled_from(["none", "drop_both", "keep_best"])),
        superposed_iou=draw(st.sampled_from([0.5, 0.75, 0.95, 1.0])),
        palette=draw(st.sampled_from([*PALETTES])),
        color_share=draw(st.sampled_from([0.25, 0.4, 0.5, 1.0])),
    )
    return pixels.reshape(SIDE, SIDE, 3), seen, Prompt("some things", tuple(entities)), config


@settings(max_examples=300, deadline=None)
@given(cases())
def test_agrees_with_the_slow_oracle(case):
    pixels, seen, prompt, config = case
    fast = score_detections(measure(Image.fromarray(pixels), seen), prompt, config)
    found, bound = oracle.score(pixels, seen, prompt, config, PALETTES[config.palette])
    np.testing.assert_array_equal(fast.found, found)
    np.testing.assert_array_equal(fast.bound, bound)
    np.testing.assert_array_equal(fast.tiam, bound.all(1))
