"""`keystep` and `keystep prompts` as a user runs them, on real files."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from keystep.evaluation.prompt_io import read_prompts
from keystep.evaluation.prompt_sets import STANDARD_SETS, noun_set, standard_set
from keystep.search.cli import build_app, commands


def run(*arguments):
    return CliRunner().invoke(build_app(), [str(argument) for argument in arguments], env={"COLUMNS": "200"})


def test_help_lists_every_command():
    result = run("--help")
    assert result.exit_code == 0
    for name in commands():
        assert name in result.stdout


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_command_explains_itself_with_examples(name):
    result = run(name, "--help")
    assert result.exit_code == 0
    assert f"keystep {name} " in result.stdout and "Examples" in result.stdout


def test_help_loads_nothing_heavy():
    check = (
        "import sys; from keystep.search.cli import build_app; build_app();"
        "print(sorted({'torch', 'ray', 'transformers', 'diffusers', 'mlflow', 'scipy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", check], capture_output=True, text=True).stdout == "[]\n"


def test_without_the_extra_the_command_says_what_to_install():
    hide = (
        "import importlib.util as u; real = u.find_spec;"
        "u.find_spec = lambda name, *rest: None if name in ('typer', 'rich') else real(name, *rest);"
        "from keystep.search.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", hide], capture_output=True, text=True)
    assert done.returncode == 2
    assert "needs typer, rich" in done.stderr and "pip install 'keystep[search]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_sampled_standard_set_is_written(tmp_path):
    out = tmp_path / "new" / "prompts.csv"
    result = run("prompts", "shapes_two_colored", "--sample", 12, "--seed", 3, "--out", out)
    assert result.exit_code == 0
    expected = standard_set("shapes_two_colored", 12, seed=3)
    assert read_prompts(out).prompts == expected.prompts
    assert f"12 prompts, sha256 {expected.hash[:16]} -> {out}" in result.stdout


def test_two_parts_are_written(tmp_path):
    out = tmp_path / "prompts.jsonl"
    assert run("prompts", "two", "--sample", 100, "--held-out", "0.3", "--out", out).exit_code == 0
    validation, test = (read_prompts(tmp_path / f"prompts-{part}.jsonl") for part in ("validation", "held_out"))
    assert {*validation, *test} == {*standard_set("two", 100)}
    assert not {*map(noun_set, validation)} & {*map(noun_set, test)}
    assert 30 <= len(test) <= 31
    assert not out.exists()


def test_a_template_is_shown_when_not_written(tmp_path):
    template = tmp_path / "mine.yaml"
    template.write_text("template: $ind_ar1 [red] $entity1\nentities: [oven, cat]\n")
    result = run("prompts", template)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[:2] == ["a [red] oven", "a [red] cat"]


def test_nothing_lists_the_standard_sets():
    result = run("prompts")
    assert all(name in result.stdout for name in STANDARD_SETS)
    assert "1,457,280" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nowhere.csv"], "nowhere.csv: no such file, and no standard prompt set (those are two, two_colored"),
        (["shapes_one", "--sample", 9], "'shapes_one' has 8 prompts; ask for 1 to 8, not 9"),
        (["shapes_one", "--held-out", 0.5], "--held-out writes two files"),
        (["shapes_one", "--out", "x.txt"], "x.txt: prompts are written as .csv, .jsonl"),
    ],
)
def test_user_errors_end_with_2_and_a_sentence(arguments, reason):
    result = run("prompts", *arguments)
    assert result.exit_code == 2
    assert f"keystep: {reason}" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("arguments", [["--debug", "prompts", "nowhere.csv"], ["prompts", "nowhere.csv", "--debug"]])
def test_debug_lets_the_error_through(arguments):
    result = run(*arguments)
    assert isinstance(result.exception, ValueError) and result.exit_code == 1


def test_a_bad_row_is_named(tmp_path):
    path = tmp_path / "prompts.csv"
    path.write_text("prompt,entity1\na cat,cat\na dog,cow\n")
    result = run("prompts", path)
    assert result.exit_code == 2
    assert f"{path}, line 3: entity 'cow' is not in the prompt" in result.stderr


def test_a_list_without_entities_becomes_a_file_that_can_be_scored(tmp_path):
    source = tmp_path / "color_val.txt"
    source.write_text("a red bear and a brown train\nA kitchen with white floor.\na lion with a crown\n")
    refused = run("prompts", source)
    assert refused.exit_code == 2
    assert "--find-entities" in refused.stderr and "Traceback" not in refused.stderr
    out = tmp_path / "color.csv"
    result = run("prompts", source, "--find-entities", "--out", out)
    assert result.exit_code == 0, result.stderr
    assert "Left out 1 prompts whose entities are not plain:\n    A kitchen with white floor." in result.stderr
    assert out.read_text() == (
        "prompt,entity1,entity2,adj1,adj2\na red bear and a brown train,bear,train,red,brown\n"
        "a lion with a crown,lion,crown,,\n"
    )
    assert run("prompts", out).exit_code == 0


def test_a_list_in_which_no_entities_can_be_found(tmp_path):
    (tmp_path / "x.txt").write_text("something nice\n")
    result = run("prompts", tmp_path / "x.txt", "--find-entities")
    assert result.exit_code == 2 and "none of its 1 prompts lists its entities" in result.stderr
