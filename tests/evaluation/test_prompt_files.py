"""One set of prompts in every layout that people's programs write; lists that name no entities are told so."""

import json
import logging
from pathlib import Path

import pytest

from keystep.core.prompts import Entity, Prompt
from keystep.evaluation.prompt_io import read_prompts, read_texts
from keystep.evaluation.template import read_template

PROMPTS = (
    Prompt("a red cat, and a dog", (Entity("cat", "red"), Entity("dog"))),
    Prompt("a photo of a café", (Entity("café"),)),
)
PLAIN = 'prompt,entity1,adj1,entity2\n"a red cat, and a dog",cat,red,dog\na photo of a café,café,,\n'
ROWS = [
    {"prompt": "a red cat, and a dog", "entity1": "cat", "adj1": "red", "entity2": "dog"},
    {"prompt": "a photo of a café", "entity1": "café"},
]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
TABBED = 'prompt\tentity1\tadj1\tentity2\n"a red cat, and a dog"\tcat\tred\tdog\na photo of a café\tcafé\t\t\n'


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.csv", PLAIN.encode()),
        ("x.CSV", PLAIN.encode()),
        ("mark.csv", PLAIN.encode("utf-8-sig")),
        ("windows.csv", PLAIN.replace("\n", "\r\n").encode("cp1252")),
        ("excel.csv", PLAIN.encode("utf-16")),
        ("semicolons.csv", "prompt;entity1;adj1;entity2\na red cat, and a dog;cat;red;dog\na photo of a café;café;;\n"
            .encode()),
        ("sep.csv", b"sep=;\n" + "prompt;entity1;adj1;entity2\na red cat, and a dog;cat;red;dog\na photo of a café;café"
            ";;\n".encode()),
        ("tabs.csv", TABBED.encode()),
        ("tabs.tsv", TABBED.encode()),
        ("index.csv", ',prompt,entity1,adj1,entity2\n0,"a red cat, and a dog",cat,red,dog\n1,a photo of a café,café,,\n'
            .encode()),
        ("names.csv", PLAIN.replace("prompt,entity1,adj1,entity2", "Prompt, Entity 1,ADJ_1,object2").encode()),
        ("trailing.csv", PLAIN.replace(",dog", ",dog,,").replace("café,,", "café,,,,").encode()),
        ("blank.csv", PLAIN.replace("\na photo", "\n,,,\n\na photo").encode()),
        ("x.jsonl", LINES.encode()),
        ("x.JSONL", LINES.encode("utf-8-sig")),
        ("excel.jsonl", LINES.encode("utf-16")),
        ("x.json", json.dumps(ROWS).encode()),
        ("separator.jsonl", LINES.replace("a photo of", "a photo\u2028of").encode()),
    ],
)  # fmt: skip
def test_every_layout_gives_the_same_prompts(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    found = read_prompts(tmp_path / name).prompts
    assert tuple(Prompt(prompt.text.replace("\u2028", " "), prompt.entities) for prompt in found) == PROMPTS


def test_what_is_not_used_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{**ROWS[0], "seed": 1, "category": "animals", "id": 7}, {**ROWS[1], "seed": 2}]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with caplog.at_level(logging.WARNING):
        assert read_prompts(tmp_path / "x.jsonl").prompts == PROMPTS
    assert caplog.text.count("did not use") == 1 and "x.jsonl: did not use category, seed" in caplog.text


# The first lines of benchmarks' own files, in their layouts.
LISTS = {
    "a.e_prompts.json": '{"animals": ["a cat and a dog"], "objects": ["a pink crown and a purple bow"]}',
    "a.e_prompts.txt": "a cat and a dog\r\na pink crown and a purple bow\r\n",
    "color_val.txt": "a cat and a dog\n\na pink crown and a purple bow\na cat and a dog",  # T2I-CompBench
    "DrawBench Prompts.csv": "Prompts,Category\na cat and a dog,Colors\na pink crown and a purple bow,Colors\n",
    "PartiPrompts.tsv": "Prompt\tCategory\tChallenge\tNote\na cat and a dog\tAnimals\tBasic\t\n"
    "a pink crown and a purple bow\tArtifacts\tSimple Detail\tcolours\n",
    "list.json": '["a cat and a dog", "a pink crown and a purple bow"]',
    "list.jsonl": '{"prompt": "a cat and a dog", "id": 1}\n{"prompt": "a pink crown and a purple bow", "id": 2}\n',
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_without_entities_are_told_so(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(LISTS[name])
    with pytest.raises(ValueError) as caught:
        read_prompts(path)
    told = str(caught.value)
    assert told.startswith(f"{path}: none of its ") and "says which entities have to be in the picture" in told
    assert f"keystep prompts {path} --find-entities --out prompts.csv" in told.replace("'", "")
    assert "add the columns entity1, adj1, entity2, adj2" in told
    assert read_texts(path) == ("a cat and a dog", "a pink crown and a purple bow")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('"a cat"', "expected a list of prompts, got 'a cat'"),
        ('{"animals": 3}', "'animals': expected a list of prompts, got 3"),
        ("[3]", "item 1: a row must be an object"),
        ('[{"prompt": "a cat", "entity1": "dog"}]', "item 1: entity 'dog' is not in the prompt"),
    ],
)
def test_other_json_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError) as caught:
        read_prompts(tmp_path / "x.json")
    assert str(caught.value).startswith(str(tmp_path / "x.json")) and reason in str(caught.value)


def test_templates_and_their_lists_from_windows(tmp_path: Path) -> None:
    (tmp_path / "nouns.txt").write_bytes("cat\r\ncafé\r\n".encode("utf-16"))
    (tmp_path / "mine.yaml").write_bytes("template: a $entity1\nentities: {path: nouns.txt}\n".encode("utf-8-sig"))
    template = read_template(tmp_path / "mine.yaml")
    assert [template[index].text for index in range(len(template))] == ["a cat", "a café"]
    (tmp_path / "mine.yaml").write_text("template: a $entity1\nentities: [cat]\nentities: [dog]\n")
    with pytest.raises(ValueError, match=r"(?s)mine\.yaml: not YAML: 'entities' stands twice.*line 3"):
        read_template(tmp_path / "mine.yaml")
