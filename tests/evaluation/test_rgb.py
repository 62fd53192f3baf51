"""Pictures of every kind that Pillow opens, as RGB with the values worked out from what their files say."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from keystep.core.prompts import Entity, Prompt
from keystep.evaluation.detection_cache import image_key
from keystep.evaluation.image_source import find_images
from keystep.evaluation.prompt_sets import PromptSet
from keystep.evaluation.rgb import as_rgb

RAMP = np.array([[0, 257, 32896], [32767, 65278, 65535]], np.uint16)
EIGHT_BITS = [[0, 1, 128], [127, 254, 255]]  # 65535 / 257 = 255: value / 257, rounded


def png(samples: np.ndarray, color_type: int) -> bytes:
    """A PNG with 16 bits a channel, written by hand from (H, W, C); `color_type` as the PNG standard numbers them."""
    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def saved(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def channels(content: bytes) -> list:
    rgb = as_rgb(Image.open(io.BytesIO(content)))
    assert rgb.mode == "RGB"
    return np.asarray(rgb).tolist()


def grey(rows: list[list[int]]) -> list:
    return [[[value] * 3 for value in row] for row in rows]


PGM = b"P5\n3 2\n65535\n" + RAMP.astype(">u2").tobytes()
TEN_BIT_PGM = b"P5\n3 1\n1023\n" + np.array([0, 512, 1023], ">u2").tobytes()


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        pytest.param(png(RAMP[..., None], 0), EIGHT_BITS, id="png"),
        pytest.param(saved(Image.fromarray(RAMP), "TIFF"), EIGHT_BITS, id="tiff"),
        pytest.param(PGM, EIGHT_BITS, id="pgm"),
        pytest.param(TEN_BIT_PGM, [[0, 128, 255]], id="pgm of 10 bits"),  # 512 / 1023 of 255 is 127.6
        pytest.param(saved(Image.fromarray(RAMP / np.float32(65535)), "TIFF"), EIGHT_BITS, id="floats"),
        pytest.param(saved(Image.fromarray(np.array([[0, 7, 255]], np.uint8)), "PNG"), [[0, 7, 255]], id="8 bits"),
        pytest.param(saved(Image.fromarray(np.array([[True, False]])), "PNG"), [[255, 0]], id="one bit"),
    ],
)
def test_greys_of_any_depth_keep_their_brightness(content: bytes, rows: list[list[int]]) -> None:
    assert channels(content) == grey(rows)


def test_colours_of_16_bits() -> None:
    color = np.array([[[65535, 32896, 0]]], np.uint16)
    assert channels(png(color, 2)) == [[[255, 128, 0]]]


@pytest.mark.parametrize("alpha", [0, 51, 255])
def test_what_is_transparent_shows_white_paper(alpha: int) -> None:
    """Over white: alpha / 255 of the picture and the rest of 255; the colour stored below is not in the picture."""
    share = alpha / 255
    red, light = (round(share * value + (1 - share) * 255) for value in (200, 40))
    pictures = {
        "RGBA": (Image.new("RGBA", (1, 1), (200, 40, 40, alpha)), [red, light, light]),
        "LA": (Image.new("LA", (1, 1), (200, alpha)), [red] * 3),
    }
    palette = Image.new("P", (1, 1), 0)
    palette.putpalette([200, 40, 40])
    for name, (image, expected) in pictures.items():
        assert channels(saved(image, "PNG")) == [[expected]], name
    assert channels(saved(palette, "PNG", transparency=bytes([alpha]))) == [[[red, light, light]]]


def test_one_colour_of_an_rgb_file_can_be_the_transparent_one() -> None:
    image = Image.fromarray(np.array([[[10, 20, 30], [1, 2, 3]]], np.uint8))
    assert channels(saved(image, "PNG", transparency=(10, 20, 30))) == [[[255, 255, 255], [1, 2, 3]]]


def test_inks() -> None:
    image = Image.new("CMYK", (1, 1), (255, 0, 51, 0))
    assert channels(saved(image, "TIFF")) == [[[0, 255, 204]]]  # each is what its ink leaves of white


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (np.array([[0, 200]], np.int32), "whole numbers of 32 bits (0 to 200) have no agreed white"),
        (np.array([[0, 200]], np.float32), "floats from 0 to 200"),
        (np.array([[0, np.nan]], np.float32), "floats from nan to nan"),
        (np.array([[-0.5, 1]], np.float32), "floats from -0.5 to 1"),
    ],
)
def test_numbers_without_an_agreed_white_are_refused(pixels: np.ndarray, reason: str) -> None:
    with pytest.raises(ValueError, match="save it with 8") as caught:
        as_rgb(Image.open(io.BytesIO(saved(Image.fromarray(pixels), "TIFF"))))
    assert reason in str(caught.value)


def test_an_rgb_picture_is_not_copied() -> None:
    image = Image.new("RGB", (2, 2))
    assert as_rgb(image) is image


def test_a_folder_of_such_pictures(tmp_path) -> None:
    """Through the door that `keystep score` takes: the depth changes nothing, what has no white is named."""
    (tmp_path / "a_cat_0.png").write_bytes(png(RAMP[..., None], 0))
    (tmp_path / "a_cat_1.png").write_bytes(saved(Image.fromarray(np.array(EIGHT_BITS, np.uint8)), "PNG"))
    (tmp_path / "a_cat_2.tif").write_bytes(saved(Image.fromarray(RAMP.astype(np.int32)), "TIFF"))
    source = find_images(tmp_path, PromptSet("x", (Prompt("a cat", [Entity("cat")]),)))
    first, second, third = (image for _, image in source.images())
    assert first is not None and second is not None and image_key(first) == image_key(second)
    assert third is None and "a_cat_2.tif: whole numbers of 32 bits" in source.problems.unreadable[0]
