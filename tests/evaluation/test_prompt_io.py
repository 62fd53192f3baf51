"""Prompt files: read, written, read back; every bad row named with its line."""

import importlib.util
import json
import logging

import pytest

from keystep.core.prompts import Entity, Prompt
from keystep.evaluation.prompt_io import load_prompt_set, read_prompts, write_prompts
from keystep.evaluation.prompt_sets import PromptSet, standard_set
from keystep.evaluation.tiam_dataset import prompt_from_tiam, tiam_row

MIXED = PromptSet(
    "mixed",
    (
        Prompt("a photo of a red fire hydrant, a blue bird and a cat", (
            Entity("fire hydrant", "red"), Entity("bird", "blue"), Entity("cat"))),
        Prompt('a "quoted" café', (Entity("café"),)),
        Prompt("a cat and a green dog", (Entity("cat"), Entity("dog", "green"))),
    ),
)  # fmt: skip


@pytest.mark.parametrize("name", ["prompts.csv", "prompts.jsonl", "evaluation_metadata.jsonl"])
def test_what_is_written_is_read_back(tmp_path, name):
    path = tmp_path / "sub" / name
    write_prompts(MIXED, path)
    assert read_prompts(path) == PromptSet(path.stem, MIXED.prompts)
    assert read_prompts(path).hash == MIXED.hash


def test_csv_layout(tmp_path):
    write_prompts(MIXED, tmp_path / "prompts.csv")
    assert (tmp_path / "prompts.csv").read_text(encoding="utf-8") == (
        "prompt,entity1,entity2,entity3,adj1,adj2,adj3\n"
        '"a photo of a red fire hydrant, a blue bird and a cat",fire hydrant,bird,cat,red,blue,\n'
        '"a ""quoted"" café",café,,,,,\n'
        "a cat and a green dog,cat,dog,,,green,\n"
    )


def test_csv_of_version_one_and_of_spreadsheets(tmp_path):
    path = tmp_path / "prompts.csv"
    path.write_bytes("\ufeffprompt,object1,adj1\r\na red Cat, cat ,red\r\n".replace("a red", " a red").encode())
    assert read_prompts(path).prompts == (Prompt("a red Cat", (Entity("cat", "red"),)),)


CSV_FAULTS = [
    ("entity1\ncat\n", "line 1: the header needs 'prompt'"),
    ("", "line 1: the header needs 'prompt'"),
    (
        "prompt,entity1\na cat,cat\na dog,cat\n",
        "line 3: entity 'cat' is not in the prompt: the prompt does not have",
    ),
    ("prompt,entity1\na cat,cat\n,cat\n", "line 3: the prompt is empty"),
    ("prompt,entity1\na cat,\n", "line 2: 'a cat' names no entity; fill entity1"),
    ("prompt,entity1\na cat,cat\na cat,cat\n", "line 3: 'a cat' stands already in"),
    (
        "prompt,entity1,adj1\na cat,cat,red\n",
        "line 2: entity 'red cat' is not in the prompt",
    ),
    ("prompt,entity1,adj1,adj2\na red cat,cat,red,blue\n", "line 2: adj2 is 'blue', but there is no entity2"),
    (
        "prompt,entity1,entity2\na cat,,cat\n",
        "line 2: entities must fill entity1, entity2, ... without a gap, got [2]",
    ),
    ("x" * 200_000 + ",prompt", "line 1: field larger than field limit"),
    ("prompt,entity1,entity1\na cat and a dog,cat,dog\n", "line 1: the column 'entity1' stands twice"),
    ("prompt,entity1,Prompt\na cat,cat,a dog\n", "line 1: the column 'prompt' stands twice"),
    ("prompt,entity1,\na cat,cat,white\n", "line 2: column 3 has no name in the header, and holds 'white'"),
    ("prompt|entity1\na cat|cat\n", "separated by commas, semicolons or tabs"),
    ("prompt,entity1\na star-shaped cat,star\n", "line 2: entity 'star' is not in the prompt"),
    ("prompt,entity1,entity2\na star,star,star\n", "2 entities are named 'star', and the prompt mentions 1"),
    ("prompt,entity1,color1\na cat,cat,red\n", "line 2: unknown column 'color1'; known are prompt, entity1"),
    ("prompt,entity1\na cat, a dog,cat\n", "line 2: more cells than the header has columns; quote commas"),
    ("prompt,entity1\na concatenation,cat\n", "line 2: entity 'cat' is not in the prompt"),
    ('prompt,entity1\n"a cat,cat\n', "line 2: unexpected end of data"),
    ("prompt,entity1\n", "no prompts that can be scored"),
]


@pytest.mark.parametrize(("text", "reason"), CSV_FAULTS)
def test_faults_of_a_csv_are_named(tmp_path, text, reason):
    path = tmp_path / "mine.csv"
    path.write_text(text)
    with pytest.raises(ValueError) as caught:
        read_prompts(path)
    assert str(caught.value).startswith(str(path))
    assert reason in str(caught.value)


JSONL_FAULTS = [
    ("{", "line 1 is not JSON"),
    ("[]", "line 1: a row must be an object"),
    ('{"prompt": "a cat", "entities": ["cat"]}', "line 1: an entity is"),
    ('{"prompt": "a cat", "entities": [{"noun": "cat", "color": "red"}]}', "line 1: an entity is"),
    ('{"prompt": "a cat", "entities": [{"noun": "cat", "attribute": 3}]}', "line 1: an entity is"),
    ('{"prompt": "a cat", "entities": []}', "line 1: 'a cat' names no entity"),
    ('{"prompt": "a cat", "entities": "cat"}', "line 1: a row is"),
    ('{"prompt": "a red cat", "entities": [{"noun": "cat"}], "colors": ["red"]}', "line 1: unknown column 'colors'"),
    ('{"prompt": "a cat", "entity1": "cat", "entity1": "dog"}', "line 1: the key 'entity1' stands twice"),
    ('{"prompt": "a cat", "entity1": "cat", "Entity 1": "dog"}', "line 1: the column 'entity1' stands twice"),
    ('{"prompt": "a cat", "entity1": "cat", "object1": "cat"}', "line 1: entity1 and object1 are two names for one"),
    ("[" * 100_000, "line 1: nested deeper than"),
    ('{"prompt": "a cat", "entity1": 5}', "line 1: entity1 must be text, got 5"),
    (
        '{"prompt": "a cat", "entities": [{"noun": "cat"}]}\n\n{"prompt": "", "entities": []}',
        "line 3: the prompt",
    ),
    ('{"prompt": "a cat", "include": []}', "line 1: a GenEval row needs"),
    ('{"prompt": "a cat", "include": [{"class": 1}]}', "line 1: each object in 'include' needs 'class'"),
    (
        '{"prompt": "a cat", "include": [{"class": "cat", "color": 1}]}',
        "line 1: 'color' in 'include' must be text",
    ),
]


@pytest.mark.parametrize(("text", "reason"), JSONL_FAULTS)
def test_faults_of_a_jsonl_are_named(tmp_path, text, reason):
    path = tmp_path / "mine.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError) as caught:
        read_prompts(path)
    assert str(caught.value).startswith(f"{path}, ")
    assert reason in str(caught.value)


def test_geneval_rows_that_ask_for_other_things_are_left_out_aloud(tmp_path, caplog):
    two_clocks = {"include": [{"class": "clock", "count": 2}], "exclude": [{"class": "clock", "count": 3}]}
    left_of = [{"class": "dog", "count": 1}, {"class": "cat", "count": 1, "position": ["left of", 0]}]
    cow = {"class": "cow", "count": 1, "color": "brown"}
    remote = {"class": "tv remote", "count": 1, "color": "white"}
    rows = [
        {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"},
        {"tag": "counting", **two_clocks, "prompt": "a photo of two clocks"},
        {"tag": "position", "include": left_of, "prompt": "a photo of a cat left of a dog"},
        {
            "tag": "color_attr",
            "include": [cow, remote],
            "prompt": "a photo of a brown cow and a white tv remote",
        },
    ]
    path = tmp_path / "evaluation_metadata.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with caplog.at_level(logging.WARNING):
        prompts = read_prompts(path)
    assert prompts.prompts == (
        Prompt("a photo of a bench", (Entity("bench"),)),
        Prompt(
            "a photo of a brown cow and a white tv remote",
            (Entity("cow", "brown"), Entity("tv remote", "white")),
        ),
    )
    assert f"{path}: left out 2 rows" in caplog.text


def test_rows_of_both_versions_of_the_dataset():
    prompt = Prompt("a red car and a blue dog", (Entity("car", "red"), Entity("dog", "blue")))
    first = {
        "sentence": prompt.text,
        "labels_params": {"object2": "dog", "object1": "car"},
        "adjs_params": {"adj1": "red", "adj2": "blue"},
        "adj_apply_on": {"adj1": "object1", "adj2": "object2"},
    }
    assert prompt_from_tiam(first) == prompt
    assert tiam_row(prompt) == {
        "prompt": prompt.text,
        "params": {"entity1": "car", "entity2": "dog", "adj1": "red", "adj2": "blue"},
        "labels_params": {"entity1": "car", "entity2": "dog"},
        "adjs_params": {"adj1": "red", "adj2": "blue"},
        "adj_apply_on": {"adj1": "entity1", "adj2": "entity2"},
    }
    # Arrow fills the keys that other rows have with None.
    filled = {
        **tiam_row(Prompt("a cat", (Entity("cat"),))),
        "adjs_params": {"adj1": None},
        "adj_apply_on": None,
    }
    filled["labels_params"] = {"entity1": "cat", "entity2": None}
    assert prompt_from_tiam(filled) == Prompt("a cat", (Entity("cat"),))
    with pytest.raises(ValueError, match="adj1 \\('red'\\) applies to 'nothing', which is no label"):
        prompt_from_tiam({**first, "adj_apply_on": {}})
    with pytest.raises(ValueError, match="a row needs 'prompt'"):
        prompt_from_tiam({"sentence": "a cat"})


def test_dataset_folders_or_what_to_install(tmp_path):
    folder = tmp_path / "dataset"
    if importlib.util.find_spec("datasets"):
        write_prompts(MIXED, folder)
        assert read_prompts(folder).prompts == MIXED.prompts
    else:
        folder.mkdir()
        for use in (lambda: write_prompts(MIXED, folder), lambda: read_prompts(folder)):
            with pytest.raises(ValueError, match=r"pip install 'keystep\[datasets\]'"):
                use()


@pytest.mark.parametrize("use", [read_prompts, lambda path: write_prompts(MIXED, path)])
def test_other_suffixes_are_refused(tmp_path, use):
    (tmp_path / "prompts.doc").write_text("a cat")
    with pytest.raises(ValueError, match=r"prompts.doc: prompts are (read from \.csv, \.tsv|written as \.csv, )"):
        use(tmp_path / "prompts.doc")


def test_names_templates_and_files_load_alike(tmp_path):
    assert load_prompt_set("shapes_two", 5, seed=3) == standard_set("shapes_two", 5, seed=3)
    template = tmp_path / "mine.yaml"
    template.write_text("template: a $entity1\nentities: [cat, dog, cow]\n")
    assert [prompt.text for prompt in load_prompt_set(template)] == ["a cat", "a dog", "a cow"]
    write_prompts(load_prompt_set(template), tmp_path / "mine.csv")
    assert load_prompt_set(tmp_path / "mine.csv", 2, seed=1) == load_prompt_set(template, 2, seed=1)
    with pytest.raises(ValueError, match=r"nowhere\.csv: no such file, and no standard prompt set \(those are two,"):
        load_prompt_set("nowhere.csv")
