"""Contact sheets: the right picture and the right mark in the right place."""

import numpy as np
import pytest
from PIL import Image

from keystep.core.prompts import Entity, Prompt
from keystep.evaluation.contact_sheet import AttentionRow, Cell, SheetRow, attention_sheet, contact_sheet
from keystep.evaluation.detections import Instance
from keystep.evaluation.drawing import BAD, ENTITY_COLORS, GOOD, HALF, fitted, font, heated, outlined, shorten, wrap
from keystep.evaluation.tiam import ImageScore

PROMPT = Prompt("a red cat and a dog", (Entity("cat", "red"), Entity("dog")))
SIDE = 96


def picture(seed: int, width: int = 32, height: int = 32) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def find(sheet: Image.Image, part: Image.Image) -> list[tuple[int, int]]:
    """Where a part lies in a sheet, pixel by pixel: (x, y) of its top left corners."""
    whole, small = np.asarray(sheet), np.asarray(part)
    ys, xs = np.nonzero((whole == small[0, 0]).all(-1))
    height, width = small.shape[:2]
    return [
        (int(x), int(y))
        for y, x in zip(ys, xs, strict=True)
        if np.array_equal(whole[y : y + height, x : x + width], small)
    ]


def count(sheet: Image.Image, color: tuple[int, int, int]) -> int:
    return int((np.asarray(sheet) == color).all(-1).sum())


def score(found: list[bool], bound: list[bool]) -> ImageScore:
    return ImageScore(np.array([found]), np.array([bound]))


def test_images_stand_by_setting_and_seed():
    images = [[picture(3 * row + column) for column in range(3)] for row in range(2)]
    rows = [SheetRow(PROMPT, seed, [Cell(image) for image in line]) for seed, line in enumerate(images)]
    sheet = contact_sheet(rows, ["base", "IterRef", "both"], side=SIDE)
    places = [[find(sheet, fitted(image, SIDE)) for image in line] for line in images]
    assert all(len(place) == 1 for line in places for place in line)
    for line in places:
        assert len({y for [(_, y)] in line}) == 1
        assert [x for [(x, _)] in line] == sorted({x for [(x, _)] in line})
    assert [x for [(x, _)] in places[0]] == [x for [(x, _)] in places[1]]
    assert places[0][0][0][1] < places[1][0][0][1]


def test_panels_share_the_rows_out():
    images = [picture(number) for number in range(3)]
    rows = [SheetRow(PROMPT, seed, [Cell(image)]) for seed, image in enumerate(images)]
    one, two = (contact_sheet(rows, ["base"], side=SIDE, panels=panels) for panels in (1, 2))
    [(x, y)], [below], [beside] = (find(two, fitted(image, SIDE)) for image in images)
    assert below[0] == x and below[1] > y
    assert beside[0] > x + SIDE and beside[1] == y
    assert two.height < one.height and two.width > one.width
    panel = beside[0] - x
    headings = [np.asarray(two)[: y - 1, left : left + SIDE] for left in (x, x + panel)]
    rule = slice(y - 25, y - 1)  # where the columns' titles are
    assert np.array_equal(headings[0][rule], headings[1][rule]) and (headings[0][rule] != 255).any()


@pytest.mark.parametrize(
    ("found", "bound", "marks"),
    [
        ([True, True], [True, True], {GOOD: 2, HALF: 0, BAD: 0}),
        ([True, True], [False, True], {GOOD: 1, HALF: 1, BAD: 0}),
        ([False, False], [False, False], {GOOD: 0, HALF: 0, BAD: 2}),
    ],
)
def test_every_entity_has_its_mark(found, bound, marks):
    """Each mark adds the same number of pixels of its colour to those of the legend."""

    def pixels(states):
        cells = [Cell(Image.new("RGB", (32, 32)), states)]
        sheet = contact_sheet([SheetRow(PROMPT, 0, cells)], ["base"], side=SIDE)
        return {color: count(sheet, color) for color in (GOOD, HALF, BAD)}

    legend = pixels(None)
    one = {
        GOOD: pixels(score([True, False], [True, False]))[GOOD] - legend[GOOD],
        HALF: pixels(score([True, False], [False, False]))[HALF] - legend[HALF],
        BAD: pixels(score([False, True], [False, True]))[BAD] - legend[BAD],
    }
    assert min(one.values()) > 0
    drawn = pixels(score(found, bound))
    assert {color: (drawn[color] - legend[color]) / one[color] for color in one} == marks


def test_marks_are_of_the_level_asked_for():
    states = ImageScore(np.array([[True, True], [False, False]]), np.array([[True, True], [False, False]]))
    row = SheetRow(PROMPT, 0, [Cell(picture(0), states)])
    low, high = (contact_sheet([row], ["base"], side=SIDE, level=level) for level in (0, 1))
    assert count(low, GOOD) > count(high, GOOD) and count(low, BAD) < count(high, BAD)


def test_masks_are_outlined_in_their_entitys_colour():
    mask = np.zeros((20, 20), bool)
    mask[5:15, 5:15] = True
    ring = outlined(Image.new("RGB", (20, 20)), [mask], [(1, 2, 3)])
    pixels = np.asarray(ring)
    drawn = (pixels == (1, 2, 3)).all(-1)
    assert drawn.sum() == 10 * 10 - 6 * 6 and not (drawn & ~mask).any()
    assert (pixels == 255).all(-1).sum() == 4 * 10  # the hairline, outside
    instance = Instance("dog", 0.9, (5, 5, 15, 15), mask)
    row = SheetRow(PROMPT, 0, [Cell(Image.new("RGB", (20, 20)), None, [instance])])
    with_rim, without = (contact_sheet([row], ["base"], side=SIDE, outlines=on) for on in (True, False))
    assert count(with_rim, ENTITY_COLORS[1]) > count(without, ENTITY_COLORS[1])
    assert count(with_rim, ENTITY_COLORS[0]) == count(without, ENTITY_COLORS[0])


def test_small_pictures_keep_their_pixels_and_large_ones_fit():
    small = picture(0, 30, 20)
    np.testing.assert_array_equal(np.asarray(fitted(small, 96)), np.kron(small, np.ones((3, 3, 1), np.uint8)))
    assert fitted(picture(0, 300, 100), 96).size == (96, 32)
    assert fitted(picture(0, 96, 5), 96).size == (96, 5)


def test_a_missing_image_leaves_its_place_empty():
    sheet = contact_sheet([SheetRow(PROMPT, 0, [None, Cell(picture(0))])], ["a", "b"], side=SIDE)
    assert len(find(sheet, fitted(picture(0), SIDE))) == 1


def test_attention_is_hottest_where_the_map_is():
    maps = np.zeros((2, 8, 8), np.float32)
    maps[0, 1, 1], maps[1, 6, 6] = 0.3, 5.0
    grey = Image.new("RGB", (64, 64), (128, 128, 128))
    for heat, corner in zip(maps, [(0, 0), (32, 32)], strict=True):
        hot = np.asarray(heated(grey, heat)).astype(int)
        red_minus_blue = hot[..., 0] - hot[..., 2]
        y, x = np.unravel_index(red_minus_blue.argmax(), red_minus_blue.shape)
        assert corner[1] <= y < corner[1] + 32 and corner[0] <= x < corner[0] + 32
    flat = np.asarray(heated(grey, np.full((4, 4), 0.7)))
    assert len(np.unique(flat.reshape(-1, 3), axis=0)) == 1
    sheet = attention_sheet([AttentionRow(PROMPT, grey, maps, "step 3")], title="Attention", side=64)
    for heat in maps:
        assert len(find(sheet, heated(fitted(grey, 64), heat))) == 1


def test_text_stays_in_its_place():
    face = font(12)
    for text in ("a photo of a red cat and a very long dog", "one", ""):
        assert all(face.getlength(line) <= 100 for line in wrap(text, face, 100))
        assert " ".join(wrap(text, face, 100)) == text
        assert face.getlength(shorten(text, face, 60)) <= 60
    assert shorten("short", face, 100) == "short" and shorten("a long text indeed", face, 60).endswith("…")


def test_sheets_that_cannot_be_drawn_are_refused():
    with pytest.raises(ValueError, match="at least one row"):
        contact_sheet([], ["base"])
    with pytest.raises(ValueError, match="has 1 cells for 2 settings"):
        contact_sheet([SheetRow(PROMPT, 0, [None])], ["a", "b"])
    with pytest.raises(ValueError, match=r"needs 2 maps \(E, h, w\), got shape \(1, 4, 4\)"):
        attention_sheet([AttentionRow(PROMPT, picture(0), np.zeros((1, 4, 4)))])
    with pytest.raises(ValueError, match="too large; show fewer rows"):
        contact_sheet([SheetRow(PROMPT, 0, [None])] * 5000, ["a"])
