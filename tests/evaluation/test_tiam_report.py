"""TIAMv2's files: the layout by hand, aggregates by pandas as TIAMv2 makes them, round trips, bad files."""

import json

import numpy as np
import pandas as pd
import pytest

from keystep.core.prompts import Entity, Prompt
from keystep.evaluation.tiam import ImageScore
from keystep.evaluation.tiam_report import aggregate_tables, collect, prompt_table, read_tables, write_tables

CONFIDENCES = (0.25, 0.9)


def score(found: list[list[int]], bound: list[list[int]] | None = None) -> ImageScore:
    return ImageScore(np.array(found, bool), np.array(bound or found, bool))


GREEN_BANANA = Prompt(
    "a photo of a green banana and a pink truck", (Entity("banana", "green"), Entity("truck", "pink"))
)
# By hand: two images; the banana is always seen and never green, the truck seen by image 0 alone at 0.9, pink once.
BANANA = collect(
    GREEN_BANANA,
    {0: score([[1, 1], [1, 1]], [[0, 1], [0, 1]]), 1: score([[1, 1], [1, 0]], [[0, 0], [0, 0]])},
    CONFIDENCES,
)
BANANA_TABLE = {
    "conf": {"0": 0.25, "1": 0.9},
    "tiam": {"0": 1.0, "1": 0.5},
    "n_class_detected": {"0": 1.0, "1": 0.75},
    "tiam_per_seed": {"0": {"0": 1.0, "1": 1.0}, "1": {"0": 1.0, "1": 0.0}},
    "prompt": {"0": GREEN_BANANA.text, "1": GREEN_BANANA.text},
    "count_order": {"0": [1.0, 1.0], "1": [1.0, 0.5]},
    "tiam_gt_color": {"0": 0.0, "1": 0.0},
    "tiam_gt_color_per_seed": {"0": {"0": 0.0, "1": 0.0}, "1": {"0": 0.0, "1": 0.0}},
    "count_order_binding": {"0": [0.0, 0.5], "1": [0.0, 1.0]},
}


def test_one_prompt_in_the_layout():
    assert prompt_table(BANANA) == BANANA_TABLE
    assert BANANA.tiam.tolist() == [0.0, 0.0] and BANANA.num_entities == 2


def test_prompts_without_colours_have_no_colour_columns():
    plain = collect(Prompt("a cat", (Entity("cat"),)), {3: score([[1], [0]])}, CONFIDENCES)
    assert set(prompt_table(plain)) == {
        "conf", "tiam", "n_class_detected", "tiam_per_seed", "prompt", "count_order",
    }  # fmt: skip
    assert prompt_table(plain)["tiam_per_seed"] == {"0": {"3": 1.0}, "1": {"3": 0.0}}


def test_pandas_reads_a_prompt_as_tiamv2_does(tmp_path):
    write_tables([BANANA], tmp_path)
    [path] = (tmp_path / "tiam_score_per_prompt").iterdir()
    assert path.name == "a_photo_of_a_green_banana_and_a_pink_truck.json"
    frame = pd.read_json(path)
    assert "tiam_gt_color" in frame.columns and len(frame.loc[0, "count_order"]) == 2
    assert sorted(int(seed) for seed in frame.loc[0, "tiam_per_seed"]) == [0, 1]
    assert frame.groupby("conf")["tiam"].mean().to_dict() == {0.25: 1.0, 0.9: 0.5}


def random_scores(seed: int, count: int, entities: int, colored: bool, seeds: list[int]):
    rng = np.random.default_rng(seed)
    prompts = []
    for number in range(count):
        nouns = [Entity(f"noun{e}", "red" if colored else None) for e in range(entities)]
        images = {}
        for image in seeds:
            found = rng.random((2, entities)) > 0.4
            images[image] = ImageScore(found, found & (rng.random((2, entities)) > 0.3) if colored else found)
        prompts.append(collect(Prompt(f"prompt {number} of {entities} {colored}", nouns), images, CONFIDENCES))
    return prompts


def test_aggregates_agree_with_pandas(tmp_path):
    """Every column averaged over prompts at each confidence, as TIAMv2 groups them."""
    scores = [
        *random_scores(0, 4, 2, False, [0, 1, 2]), *random_scores(1, 3, 2, True, [0, 1]),
        *random_scores(2, 2, 3, False, [5]),
    ]  # fmt: skip
    aggregates = write_tables(scores, tmp_path)
    assert set(aggregates) == {
        "tiam_score_2_entities.json", "tiam_score_2_colored_entities.json", "tiam_score_3_entities.json",
    }  # fmt: skip
    for name, table in aggregates.items():
        assert json.loads((tmp_path / name).read_text()) == table
    frames = [pd.read_json(path) for path in (tmp_path / "tiam_score_per_prompt").glob("*2_True*")]
    together = pd.concat(frames)
    ours = aggregates["tiam_score_2_colored_entities.json"]
    for row, (confidence, group) in enumerate(together.groupby("conf")):
        key = str(row)
        assert ours["conf"][key] == confidence and ours["n_prompt"][key] == 3
        assert ours["tiam"][key] == pytest.approx(group["tiam"].mean())
        assert ours["tiam_gt_color"][key] == pytest.approx(group["tiam_gt_color"].mean())
        assert ours["n_class_detected"][key] == pytest.approx(2 * group["n_class_detected"].mean())
        for column in ("count_order", "count_order_binding"):
            expected = pd.DataFrame(group[column].tolist()).mean().to_dict()
            assert ours[column][key] == pytest.approx({str(k): v for k, v in expected.items()})
        for column in ("tiam_per_seed", "tiam_gt_color_per_seed"):
            expected = pd.DataFrame(group[column].tolist()).mean().to_dict()
            assert ours[column][key] == pytest.approx({str(k): v for k, v in expected.items()})


def test_reading_back_gives_the_same_aggregates(tmp_path):
    scores = random_scores(3, 5, 2, True, [0, 1])
    written = write_tables(scores, tmp_path)
    assert aggregate_tables(read_tables(tmp_path / "tiam_score_per_prompt")) == written


def test_columns_by_seed_need_the_same_seeds():
    tables = [prompt_table(score) for score in random_scores(4, 2, 2, True, [0, 1])]
    tables += [prompt_table(score) for score in random_scores(5, 1, 2, True, [0, 7])]
    [aggregate] = aggregate_tables(tables).values()
    assert "tiam" in aggregate and "tiam_gt_color" in aggregate
    assert "tiam_per_seed" not in aggregate and "tiam_gt_color_per_seed" not in aggregate


def test_prompts_whose_file_names_would_clash_have_their_own(tmp_path):
    texts = ["a cat", "a_cat", "a cat?", "x " * 300]
    write_tables([collect(Prompt(t, (Entity("cat"),)), {0: score([[1], [0]])}, CONFIDENCES) for t in texts], tmp_path)
    read = read_tables(tmp_path / "tiam_score_per_prompt")
    assert sorted(table["prompt"]["0"] for table in read) == sorted(texts)


def test_bad_files_are_named(tmp_path):
    with pytest.raises(ValueError, match="no per-prompt JSON files in"):
        read_tables(tmp_path)
    bad = tmp_path / "bad.json"
    for text, message in [
        ("{", r"bad\.json is not JSON"),
        ("[]", r"bad\.json is not a per-prompt TIAMv2 file: it has no conf, tiam"),
        ('{"conf": {"0": 0.25}}', r"it has no tiam, n_class_detected"),
        (json.dumps({**BANANA_TABLE, "tiam": {"0": 1.0}}), r"rows are missing in tiam"),
        (json.dumps({**BANANA_TABLE, "conf": 0.25}), r"rows are missing in .*conf"),
    ]:
        bad.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_tables(tmp_path)


def test_unlike_scores_are_not_mixed(tmp_path):
    other = {**BANANA_TABLE, "conf": {"0": 0.25, "1": 0.95}}
    with pytest.raises(ValueError, match="different confidences"):
        aggregate_tables([BANANA_TABLE, other])
    with pytest.raises(ValueError, match="comes twice"):
        write_tables([BANANA, BANANA], tmp_path)
    with pytest.raises(ValueError, match="no image of prompt 'a photo of a green"):
        collect(GREEN_BANANA, {}, CONFIDENCES)
