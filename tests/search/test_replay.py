from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from keystep.core.config import LossWeights, Refinement
from keystep.search.replaying.recorded_grid import RecordedGrid, load_grid
from keystep.search.replaying.replay import Replay, replay
from keystep.search.replaying.replay_costs import Reuse, evaluations_alone
from keystep.search.settings.space import Space
from keystep.search.spec.instances import make_parts
from keystep.search.spec.search_spec import SearchSpec
from tests.search.evaluator_cases import STEPS, small_spec, validation
from tests.search.small_search import TIMESTEPS, make_spec, run
from tests.search.stand_in import outcome
from tests.search.test_evaluator import COSTS

GUIDED_STEP, SHIFT = 2, 2


def _grid(spec: SearchSpec, timesteps: tuple[float, ...] = TIMESTEPS) -> RecordedGrid:
    """What the stand-in would make of every setting, on the validation part and (by the same rule) beyond it."""
    space = Space(spec, timesteps)
    settings = [None, *space.guidance_alone(), *(space.refinement(params) for params in space.grid())]
    parts = make_parts(spec)
    num_prompts = sum(len(part.instances) // len(part.seeds) for part in parts)
    rows = {setting: row for row, setting in enumerate(settings)}
    plain = [None if row is None or row.iterref is None else row.model_dump(mode="json") for row in settings]
    outcomes = [[[outcome(setting, number)] for number in range(num_prompts)] for setting in plain]
    return RecordedGrid(spec, timesteps, np.array(outcomes, dtype=np.uint8), rows)


@pytest.fixture
def grid(tmp_path: Path) -> RecordedGrid:
    return _grid(make_spec(tmp_path))


def test_costs_are_those_that_the_evaluator_counts(tmp_path: Path) -> None:
    spec = small_spec(tmp_path, space={"optimizer": ["gd", "momentum"]})
    reuse = Reuse(Space(spec, [float(900 - 100 * step) for step in range(STEPS)]), spec.sampler)
    first, second = validation(spec).instances[:2]
    for name, setting, spent, alone in COSTS:
        assert reuse.spend(setting, first) == spent, name
        assert evaluations_alone(setting, spec.sampler) == alone, name
    assert reuse.spend(None, second) == GUIDED_STEP * STEPS, "another image shares nothing"


def test_what_cannot_be_counted_is_refused(tmp_path: Path) -> None:
    for space in ({"threshold": 0.1}, {"cn": {"low": 0.5, "high": 1.0}}):
        spec = small_spec(tmp_path, space=space)
        with pytest.raises(ValueError, match="without a threshold and without ranges"):
            Reuse(Space(spec, [float(9 - step) for step in range(STEPS)]), spec.sampler)


@pytest.mark.parametrize("pruner", ["paired", pytest.param("MedianPruner", marks=pytest.mark.slow)])
def test_a_replay_is_the_real_search(tmp_path: Path, pruner: str) -> None:
    """The same settings in the same order, stopped after as many instances, as Ray Tune runs them."""
    spec = make_spec(tmp_path, search={"pruner": pruner})
    records = run(spec)
    replayed = replay(
        _grid(spec), pruner=pruner, trials=spec.search.trials, workers=2, lookahead=3, parts=make_parts(spec)
    )
    assert [(trial.refinement, trial.state, trial.num_instances_run) for trial in replayed.trials] == [
        (record.refinement, record.state, len(record.values)) for record in records
    ]
    assert {trial.state for trial in replayed.trials} == {"complete", "pruned"}


def test_a_whole_grid_without_pruning(grid: RecordedGrid) -> None:
    """All settings, each on all instances; spent is what is left when prefixes are shared."""
    replayed = replay(grid, sampler="grid", pruner="none", trials=grid.space.size, parts=make_parts(grid.spec))
    num_instances, num_steps = len(make_parts(grid.spec)[0].instances), len(TIMESTEPS)
    assert len(replayed.trials) == grid.space.size == 2 * num_steps
    assert all(trial.state == "complete" for trial in replayed.trials)
    iterations = grid.spec.space.iterations[0]
    plain = [trial for trial in replayed.trials if trial.params["gsng"] == "off"]
    for trial in plain:
        left = GUIDED_STEP * (num_steps - trial.params["step_index"])
        assert trial.evaluations == num_instances * (SHIFT * iterations + left)
        assert trial.evaluations_alone == num_instances * (SHIFT * iterations + GUIDED_STEP * num_steps)
    assert 0 < replayed.saved < 1
    assert replayed.duration == sum(trial.evaluations for trial in replayed.trials)
    _, held_out = make_parts(grid.spec)
    assert replayed.regret == max(grid.objective(setting, held_out) for setting in grid.rows) - grid.objective(
        replayed.winner, held_out
    )


def test_workers_change_the_time_alone(grid: RecordedGrid) -> None:
    one, three = (replay(grid, seed=4, workers=workers, lookahead=3) for workers in (1, 3))
    assert _without_costs(one) == _without_costs(three)
    assert one.winner == three.winner
    assert one.duration / 3 <= three.duration < one.duration


def _without_costs(replayed: Replay) -> list[object]:
    return [replace(trial, evaluations=0) for trial in replayed.trials]


def test_seeds_draw_other_prompts(grid: RecordedGrid) -> None:
    drawn = [grid.parts(12, seed) for seed in (0, 1, 1)]
    texts = [{instance.prompt.text for instance in part.instances} for part, _ in drawn]
    assert texts[0] != texts[1] == texts[2]
    for part, held_out in drawn:
        assert len(part.instances) == 24 and len(held_out.instances) == 12
        assert not {i.prompt.text for i in part.instances} & {i.prompt.text for i in held_out.instances}


def test_more_prompts_than_were_recorded_are_drawn_again(grid: RecordedGrid) -> None:
    part, held_out = grid.parts(50, 0)
    assert len(part.instances) == 100 and len(held_out.instances) == 36
    assert len({instance.prompt.text for instance in part.instances}) == 100, "told apart"
    setting = grid.space.refinement({"step_index": 3, "gsng": "on"})
    recorded, drawn = grid.values(setting, held_out), grid.values(setting, part)
    by_text = {instance.prompt.text: recorded[instance.number] for instance in held_out.instances}
    for instance in part.instances:
        assert drawn[instance.number] == by_text[instance.prompt.text.partition(" #")[0]]
    assert len(replay(grid, trials=4, validation=50).trials) == 4


def test_pruning_saves(grid: RecordedGrid) -> None:
    without, paired = (replay(grid, pruner=pruner, seed=1, trials=18) for pruner in ("none", "paired"))
    assert paired.evaluations < without.evaluations
    assert paired.plain_evaluations == without.plain_evaluations
    assert all(trial.num_instances_run == 32 for trial in without.trials)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"workers": 2}, "workers must lie between 1 and lookahead, 1, got 2"),
        ({"validation": -1}, "at least 1 prompt a set, got -1"),
    ],
)
def test_mistakes(grid: RecordedGrid, arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replay(grid, **arguments)  # pyright: ignore[reportArgumentType]


def test_files_that_are_no_grid(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no recorded grid at .*nothing\.parquet; give a \.parquet file"):
        load_grid("nothing")
    pq.write_table(pa.table({"tiam": [1]}), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="is not a recorded grid"):
        load_grid(tmp_path / "other.parquet")


def test_a_setting_that_was_not_recorded(grid: RecordedGrid) -> None:
    with pytest.raises(ValueError, match="has no setting"):
        grid.values(Refinement(weights=LossWeights(cn=3.0)), make_parts(grid.spec)[0])
