"""Colours: the conversion against published values, the palettes against what people call colours."""

import itertools

import matplotlib.colors
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keystep.core.shapes.scenes import COLORS, INK_JITTER, INKS
from keystep.evaluation.colors import PALETTES, Palette, palette_named, srgb_to_lab

# CIELAB (D65) of the sRGB primaries and secondaries, as Bruce Lindbloom's calculator prints them.
LINDBLOOM = {
    (255, 0, 0): (53.2408, 80.0925, 67.2032),
    (0, 255, 0): (87.7347, -86.1827, 83.1793),
    (0, 0, 255): (32.2970, 79.1875, -107.8602),
    (255, 255, 0): (97.1393, -21.5537, 94.4780),
    (0, 255, 255): (91.1132, -48.0875, -14.1312),
    (255, 0, 255): (60.3242, 98.2343, -60.8249),
    (128, 128, 128): (53.5850, 0.0, 0.0),
    (255, 255, 255): (100.0, 0.0, 0.0),
    (0, 0, 0): (0.0, 0.0, 0.0),
    (3, 3, 3): (0.8226, 0.0, 0.0),
}


def rgb(*values: int) -> np.ndarray:
    return np.array(values, np.uint8)


@pytest.mark.parametrize(("color", "lab"), LINDBLOOM.items())
def test_lab_agrees_with_published_values(color, lab):
    np.testing.assert_allclose(srgb_to_lab(rgb(*color)), lab, atol=0.02)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=1, max_size=20), st.sampled_from([*PALETTES]))
def test_nearest_reference_agrees_with_a_plain_search(colors, palette_name):
    palette = PALETTES[palette_name]
    for color, index in zip(colors, palette.classify(np.array(colors, np.uint8)), strict=True):
        lab = srgb_to_lab(rgb(*color))
        distances = {
            name: min(sum((x - y) ** 2 for x, y in zip(lab, point, strict=True)) for point in points)
            for name, points in palette.references.items()
        }
        assert distances[palette.names[index]] == pytest.approx(min(distances.values()), abs=1e-6)


def test_every_reference_of_the_paper_has_its_own_name():
    palette = PALETTES["tiam"]
    assert set(palette.names) == {"pink", "red", "yellow", "green", "blue", "purple", "black", "white"}
    near = {"red": (140, 17, 22), "green": (0, 128, 70), "purple": (85, 45, 108), "black": (9, 9, 9)}
    assert {name: palette.names[palette.classify(rgb(*color))] for name, color in near.items()} == {
        name: name for name in near
    }


def test_the_papers_palette_keeps_its_known_faults():
    palette = PALETTES["tiam"]
    assert palette.names[palette.classify(rgb(0, 0, 255))] == "purple"
    assert palette.names[palette.classify(rgb(128, 128, 128))] == "blue"


@pytest.mark.parametrize(
    ("color", "name"),
    [
        ((255, 0, 0), "red"), ((0, 255, 0), "green"), ((0, 0, 255), "blue"), ((255, 255, 0), "yellow"),
        ((128, 128, 128), "grey"), ((0, 0, 0), "black"), ((255, 255, 255), "white"), ((128, 0, 0), "red"),
        ((139, 69, 19), "brown"), ((255, 165, 0), "orange"), ((255, 140, 0), "orange"),
        ((128, 0, 128), "purple"),
        ((255, 192, 203), "pink"), ((255, 105, 180), "pink"), ((0, 128, 0), "green"), ((0, 0, 128), "blue"),
        ((64, 64, 64), "grey"), ((192, 192, 192), "grey"),
    ],
)  # fmt: skip
def test_extended_palette_is_right_on_plain_colours(color, name):
    palette = PALETTES["extended"]
    assert palette.names[palette.classify(rgb(*color))] == name


def survey() -> list[tuple[str, tuple[int, int, int]]]:
    """Colours that people named in the XKCD survey with a plain or a graded basic colour word."""
    grades = [
        "",
        "dark",
        "light",
        "bright",
        "deep",
        "medium",
        "vivid",
        "strong",
        "rich",
        "dull",
        "faded",
        "muted",
    ]
    wanted = {
        f"xkcd:{grade} {name}".replace(": ", ":"): name for grade in grades for name in PALETTES["extended"].names
    }
    return [
        (wanted[key], tuple(round(255 * x) for x in matplotlib.colors.to_rgb(code)))
        for key, code in matplotlib.colors.XKCD_COLORS.items()
        if key in wanted
    ]


def test_extended_palette_agrees_with_people():
    """At least 95 % of the survey's plainly named colours; the paper's eight references are far from that."""
    named = survey()
    assert len(named) > 60
    share = {
        palette.name: np.mean([palette.names[palette.classify(rgb(*color))] == name for name, color in named])
        for palette in PALETTES.values()
    }
    assert share["extended"] >= 0.95
    assert share["tiam"] < 0.8


def test_shares_count_pixels():
    pixels = np.array([[255, 0, 0]] * 3 + [[0, 255, 0]], np.uint8)
    palette = PALETTES["extended"]
    shares = dict(zip(palette.names, palette.shares(pixels), strict=True))
    assert shares["red"] == 0.75 and shares["green"] == 0.25
    assert sum(shares.values()) == 1.0
    assert palette.shares(pixels[:0]).sum() == 0.0


def test_unknown_names_are_refused_with_the_choices():
    with pytest.raises(ValueError, match=r"no colour 'teal'; it has pink, red"):
        PALETTES["tiam"].index("teal")
    with pytest.raises(ValueError, match=r"unknown palette 'web'; choose one of tiam, extended"):
        palette_named("web")
    with pytest.raises(ValueError, match="at least one reference"):
        Palette("empty", {"red": []})
    with pytest.raises(ValueError, match="uint8"):
        srgb_to_lab(np.zeros((2, 3), np.float32))  # pyright: ignore[reportArgumentType]


def test_spellings():
    palette = PALETTES["extended"]
    assert palette.index("Gray") == palette.index("grey")
    assert palette.index("violet") == palette.index("purple")


@pytest.mark.parametrize("palette_name", [*PALETTES])
@pytest.mark.parametrize("color", COLORS)
def test_both_palettes_name_every_ink_of_the_shapes_world(color, palette_name):
    palette = PALETTES[palette_name]
    offsets = np.array(list(itertools.product((-INK_JITTER, 0, INK_JITTER), repeat=3)))
    inks = np.clip(np.array(INKS[color]) + offsets, 0, 255).astype(np.uint8)
    assert {palette.names[k] for k in palette.classify(inks)} == {color}
