"""Images found in folders, tar files and JSON maps; everything unexpected named."""

import io
import json
import os
import sys
import tarfile

import pytest
from PIL import Image

from keystep.core.prompts import Entity, Prompt
from keystep.evaluation.image_source import find_images
from keystep.evaluation.prompt_sets import PromptSet

CAT = Prompt("a photo of a cat", (Entity("cat"),))
TWO = Prompt("a photo of a Fire Hydrant, and a 2", (Entity("Fire Hydrant"),))
PROMPTS = PromptSet("x", (CAT, TWO))


def png(value=0, size=(8, 6), mode="RGB"):
    stream = io.BytesIO()
    Image.new(mode, size, value).save(stream, "png")
    return stream.getvalue()


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


COMPLETE = {
    "a_photo_of_a_cat_0.png": png((10, 0, 0)),
    "a_photo_of_a_cat_1.png": png((11, 0, 0)),
    "sub/a_photo_of_a_fire_hydrant,_and_a_2_0.PNG": png((20, 0, 0)),
    "sub/a photo of a fire hydrant, and a 2.1.png": png((21, 0, 0)),
}


def reds(source):
    """(prompt, number) -> red value of the only colour of each image."""
    return {
        (file.prompt_index, file.seed): image.getpixel((0, 0))[0]
        for file, image in source.images()
        if image is not None
    }


def as_tar(tmp_path, files, suffix):
    path = tmp_path / f"images{suffix}"
    with tarfile.open(path, "w:gz" if suffix.endswith("gz") else "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"./images/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def as_map(tmp_path, files):
    write(tmp_path / "any", {name.replace("a", "b"): content for name, content in files.items()})
    names = [f"any/{name.replace('a', 'b')}" for name in files]
    path = tmp_path / "images.json"
    path.write_text(json.dumps({CAT.text: names[:2], TWO.text: {"1": names[3], "0": names[2]}}))
    return path


@pytest.mark.parametrize("kind", ["folder", ".tar", ".tar.gz", ".json"])
def test_every_kind_of_source_gives_the_same_images(tmp_path, kind):
    if kind == "folder":
        path = write(tmp_path / "images", COMPLETE)
    else:
        path = as_map(tmp_path, COMPLETE) if kind == ".json" else as_tar(tmp_path, COMPLETE, kind)
    source = find_images(path, PROMPTS)
    assert reds(source) == {(0, 0): 10, (0, 1): 11, (1, 0): 20, (1, 1): 21}
    assert (source.seeds, source.size) == ((0, 1), (8, 6))
    assert not source.problems


def test_pictures_come_as_rgb_whatever_their_mode(tmp_path):
    files = {"a_photo_of_a_cat_0.png": png((5, 6, 7, 255), mode="RGBA"), "a_photo_of_a_cat_1.png": png(9, mode="L")}
    source = find_images(write(tmp_path, files), PromptSet("x", (CAT,)))
    assert [image.mode for _, image in source.images() if image] == ["RGB", "RGB"]


def test_other_files_in_the_folder_are_none_of_our_business(tmp_path):
    files = {**COMPLETE, "prompts.csv": b"x", ".a_photo_of_a_cat_2.png": b"x"}
    assert not find_images(write(tmp_path, files), PROMPTS).problems


def test_everything_unexpected_is_named(tmp_path):
    files = {
        **COMPLETE,
        "a_photo_of_a_cat_0.jpg": png(),
        "a_photo_of_a_dog_0.png": png(),
        "cat.png": png(),
        "a_photo_of_a_cat_2.png": b"not an image",
        "a_photo_of_a_cat_3.png": png(size=(9, 6)),
    }
    source = find_images(write(tmp_path, files), PROMPTS)
    assert source.problems.surplus == [
        f"{tmp_path}/a_photo_of_a_cat_0.png: same prompt and number as {tmp_path}/a_photo_of_a_cat_0.jpg",
        f"{tmp_path}/a_photo_of_a_dog_0.png: no prompt of the set is called so",
        f"{tmp_path}/cat.png: no prompt of the set is called so",
    ]
    assert source.problems.missing == [f"{TWO.text!r}: number 2, 3"]
    assert source.problems.unreadable == [f"{tmp_path}/a_photo_of_a_cat_2.png: not an image"]
    assert source.problems.odd_sized == [f"{tmp_path}/a_photo_of_a_cat_3.png: 9x6 px, most are 8x6"]
    assert [file.seed for file in source.files if file.prompt_index == 0] == [0, 1, 3]


@pytest.mark.skipif(os.name == "nt" or sys.platform == "darwin", reason="names are text there")
def test_a_name_that_is_no_text_can_be_shown_and_written(tmp_path):
    write(tmp_path, COMPLETE)
    with open(os.fsencode(tmp_path) + b"/a_dog\xff_0.png", "wb") as file:
        file.write(png())
    (line,) = find_images(tmp_path, PROMPTS).problems.lists()["surplus"]
    assert line.encode() == os.fsencode(tmp_path) + b"/a_dog\\udcff_0.png: no prompt of the set is called so"


def test_a_number_of_images_can_be_expected(tmp_path):
    folder = write(tmp_path, COMPLETE)
    assert find_images(folder, PROMPTS, images_per_prompt=3).problems.missing == [
        f"{CAT.text!r}: number 2",
        f"{TWO.text!r}: number 2",
    ]
    source = find_images(folder, PROMPTS, images_per_prompt=1)
    assert [line.split(": ")[1] for line in source.problems.surplus] == [
        "number 1, and 1 images a prompt are expected"
    ] * 2
    assert source.seeds == (0,) and len(source.files) == 2


def test_a_prompt_without_any_image(tmp_path):
    source = find_images(write(tmp_path, {"a_photo_of_a_cat_0.png": png()}), PROMPTS)
    assert source.problems.missing == [f"{TWO.text!r}: any"]


@pytest.mark.parametrize("suffix", ["folder", ".tar"])
def test_cut_off_pictures_are_found_when_decoded(tmp_path, suffix):
    noise = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(noise, "png")
    files = {"a_photo_of_a_cat_0.png": noise.getvalue(), "a_photo_of_a_cat_1.png": noise.getvalue()[:2000]}
    path = write(tmp_path / "images", files) if suffix == "folder" else as_tar(tmp_path, files, suffix)
    source = find_images(path, PromptSet("x", (CAT,)))
    assert not source.problems
    decoded = {file.seed: image is not None for file, image in source.images()}
    assert decoded == {0: True, 1: False}
    (line,) = source.problems.unreadable
    assert "a_photo_of_a_cat_1.png: " in line


def test_files_of_a_map_that_do_not_exist_are_unreadable(tmp_path):
    write(tmp_path, {"cat.png": png()})
    (tmp_path / "map.json").write_text(json.dumps({CAT.text: ["cat.png", "nowhere.png"], "a dog": ["cat.png"]}))
    problems = find_images(tmp_path / "map.json", PromptSet("x", (CAT,))).problems
    assert "nowhere.png" in problems.unreadable[0] and "No such file" in problems.unreadable[0]
    assert problems.surplus == [f"{tmp_path}/cat.png: no prompt of the set is called so"]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("images", None, "folder, a .tar file or a .json map; this is none"),
        ("images.txt", b"", "folder, a .tar file or a .json map; this is none"),
        ("images.tar", b"x", "not a readable tar file"),
        ("images.json", b"{", "not JSON"),
        ("images.json", b"[]", "must be a map such as"),
        ("images.json", b'{"a photo of a cat": "cat.png"}', "must have a list of files, or a map of number to file"),
        ("images.json", b'{"a photo of a cat": [1]}', "expected a number and a file, got 0: 1"),
        ("images.json", b'{"a photo of a cat": {"x": "cat.png"}}', "expected a number and a file, got 'x': 'cat.png'"),
        ("images.json", b'{"a photo of a cat": ["x.png"]}', "none of the 1 images can be read; the first: "),
        ("images/x.png", b"", "no image of the prompt set; the first would be called a_photo_of_a_cat_0.png"),
    ],
)
def test_what_is_no_source_is_refused(tmp_path, name, content, reason):
    if content is not None:
        write(tmp_path, {name: content})
    path = tmp_path / name.split("/")[0]
    with pytest.raises(ValueError) as caught:
        find_images(path, PROMPTS)
    assert str(caught.value).startswith(str(path)) and reason in str(caught.value)


def test_prompts_whose_images_have_the_same_names_are_refused(tmp_path):
    prompts = PromptSet("x", (CAT, Prompt("a photo of a Cat", (Entity("Cat"),))))
    with pytest.raises(ValueError, match="'a photo of a cat' and 'a photo of a Cat' have the same names"):
        find_images(write(tmp_path, COMPLETE), prompts)
