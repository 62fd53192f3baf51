"""Estimates against counts by hand and against what a search's own evaluator counts."""

import json
from dataclasses import dataclass
from pathlib import Path

import optuna
import pytest

from keystep.cluster.commands.estimate import LOADING_SECONDS, STORAGE_MEGABYTES
from keystep.cluster.commands.estimate import estimate as command
from keystep.cluster.estimating.driver_pace import SECONDS_PER_RESULT, SECONDS_PER_TRIAL
from keystep.cluster.estimating.estimate import Estimate, estimate, workers_on
from keystep.cluster.estimating.estimate_report import draw, duration, report, to_json
from keystep.cluster.estimating.limits import saturation
from keystep.cluster.estimating.replayed import NUM_REPLAYS, replayed_trials
from keystep.cluster.estimating.simulation import Pace, simulate
from keystep.cluster.estimating.workload import Workload, expected_work, plain_work, settings_of
from keystep.search.images.evaluator import Evaluator
from keystep.search.reporting.report_formats import Table, to_html
from keystep.search.settings.space import Space
from keystep.search.spec.instances import make_parts
from keystep.search.spec.loading import load_spec
from tests.search.evaluator_cases import STEPS, small_spec
from tests.search.small_search import make_spec
from tests.search.test_replay import _grid as stand_in_grid

GUIDED, SHIFT = 2, 2  # evaluations of a step with guidance, and of a shift


@dataclass(frozen=True)
class Trial:
    num_instances_run: int
    num_instances_total: int


@pytest.fixture(scope="module")
def found() -> Estimate:
    """Of the embedded model's spec: 12 steps with guidance, iterations 5, 10, 20."""
    space = ["space.iou=[0.0, 1.0]", "space.iterations=[5, 10, 20]"]
    spec = load_spec("shapes-sd", [*space, "search.trials=8", "search.sampler=tpe", "search.block_prompts=4"])
    replayed = [Trial(32, 128), Trial(128, 128)] * 4
    pace = Pace(evaluation=0.01, loading=5.0, result=0.02, trial=0.05)
    return estimate(spec, pace=pace, gpus=(1, 4, 64), replayed=replayed, seeds_a_prompt=2, storage_bytes_per_second=1e8)


def test_what_a_spec_alone_says(found: Estimate) -> None:
    validation, held_out = found.parts
    assert (len(validation.instances), len(held_out.instances)) == (4 * 16 * 2, 4 * 24 * 2)
    assert [step.step_index for step in found.steps] == list(range(12))
    for step in found.steps:
        assert step.alone == {count: GUIDED * 12 + SHIFT * count for count in (5, 10, 20)}
        assert step.saved == GUIDED * step.step_index
        assert step.saved_guided is None
    assert found.steps[0].timestep == max(step.timestep or 0.0 for step in found.steps)
    assert found.stopped == 0.5


def test_the_plain_way_is_every_setting_on_every_instance(found: Estimate) -> None:
    iterations = [setting.iterref.iterations for setting in settings_of(found.spec, space_of(found)) if setting.iterref]
    alone = [GUIDED * 12 + SHIFT * count for count in iterations]
    confirmed = sum(sum(block.evaluations for block in found.plain.held_out[at : at + 6]) for at in (0, 6, 12))
    assert found.plain.evaluations == 128 * (GUIDED * 12 + sum(alone)) + confirmed
    assert found.plain.images == 128 * 9 + 192 * 3
    assert found.plain.held_out[0].evaluations == 32 * GUIDED * 12, "the unrefined model, a block of 4 x 4 x 2 images"


def test_trials_stop_where_the_replay_did(found: Estimate) -> None:
    # 32 instances of 2 seeds are 16 prompts: those of one block of 4 prompts of 4 sets.
    assert [len(trial) for trial in found.expected.trials] == [1, 4] * 4
    assert found.expected.evaluations < found.plain.evaluations


def test_expected_evaluations_are_those_of_the_evaluator(tmp_path: Path) -> None:
    """Every image made for real, in the order of the slots: the same number of denoiser evaluations."""
    spec = small_spec(tmp_path, search={"trials": 5, "block_prompts": 1, "seed": 3})
    evaluator = Evaluator(spec)
    space, parts = Space(spec, evaluator.timesteps), make_parts(spec)
    settings = settings_of(spec, space)
    assert len(set(settings)) == 5
    work = expected_work(spec, space, parts, settings)
    for name, wanted, counted in zip(
        ("unrefined", "guidance alone", *settings),
        [None, *space.guidance_alone(), *settings],
        [work.baseline[:2], work.baseline[2:], *work.trials],
        strict=True,
    ):
        for block, expected in zip(parts[0].blocks, counted, strict=True):
            outcomes = evaluator.evaluate(wanted, block)
            assert sum(each.evaluations for each in outcomes.values()) == expected.evaluations, name
    plain = plain_work(spec, space, parts, settings)
    outcomes = evaluator.evaluate(settings[0], parts[0].instances)
    assert sum(each.evaluations_alone for each in outcomes.values()) == sum(b.evaluations for b in plain.trials[0])
    stored = list((tmp_path / "latents").rglob("*.safetensors"))
    assert len(stored) == points_written(work)
    sizes = [path.stat().st_size for path in stored]
    point = estimate(spec).point_bytes
    assert max(sizes) * 0.7 < point < max(sizes) * 1.5


def points_written(work: Workload) -> float:
    """On the validation part; every block reads one an image."""
    blocks = [*work.baseline, *(block for trial in work.trials for block in trial)]
    return sum(block.points - block.images for block in blocks)


def test_sd14_is_worth_a_cluster() -> None:
    """What `keystep estimate sd14 --seconds-per-evaluation 0.02 --gpus 1,8,64,256,512` promises, the spec as it is."""
    spec = load_spec("sd14")
    replayed, seeds = replayed_trials(spec)
    work = estimate(spec, replayed=replayed, seeds_a_prompt=seeds)
    pace = Pace(
        evaluation=0.02,
        loading=LOADING_SECONDS,
        result=SECONDS_PER_RESULT,
        trial=SECONDS_PER_TRIAL,
        point=work.point_bytes / (STORAGE_MEGABYTES * 1e6),
    )
    on = {gpus: simulate(work.expected, pace, gpus, spec.search.lookahead) for gpus in (1, 8, 64, 256, 512)}
    for gpus, least in ((8, 0.95), (64, 0.88), (256, 0.70)):
        assert on[gpus].utilisation >= least, gpus
    assert on[512].seconds <= on[8].seconds / 25
    assert 64 * on[64].seconds <= 1.15 * on[1].seconds
    assert 0 < on[64].in_vain <= 0.10
    _, storage = saturation(work.expected, pace)
    assert storage > 4000


def test_half_precision_shares_less(tmp_path: Path) -> None:
    spec = small_spec(tmp_path, search={"trials": 12})
    half = spec.model_copy(update={"model": spec.model.model_copy(update={"dtype": "float16"})})
    space, parts = Space(spec, [float(-step) for step in range(STEPS)]), make_parts(spec)
    settings = settings_of(spec, space)
    assert (
        expected_work(spec, space, parts, settings).evaluations
        < expected_work(half, space, parts, settings).evaluations
    )


def test_a_range_of_weights_shares_the_unrefined_steps(tmp_path: Path) -> None:
    spec = small_spec(
        tmp_path, space={"steps": [3], "gsng": ["off"], "iterations": [2], "cn": {"low": 0.5, "high": 2.0}}
    )
    spec = spec.model_copy(update={"search": spec.search.model_copy(update={"trials": 4})})
    space, parts = Space(spec, [float(-step) for step in range(STEPS)]), make_parts(spec)
    settings = settings_of(spec, space)
    work = expected_work(spec, space, parts, settings)
    assert len(settings) == 4
    for trial in work.trials:
        each = GUIDED * (STEPS - 3) + SHIFT * 2
        assert trial[0].evaluations / trial[0].images == each


def test_gpus_hold_workers(tmp_path: Path) -> None:
    assert workers_on(load_spec("sd14", ["resources.gpus=0.5"]), 8) == 16
    assert workers_on(load_spec("sd14", ["resources.gpus=4"]), 8) == 2
    assert workers_on(load_spec("shapes-sd"), 8) == 8


def test_more_gpus_take_no_longer_and_cost_no_less(found: Estimate) -> None:
    seconds = [row.expected.seconds for row in found.rows]
    assert seconds == sorted(seconds, reverse=True)
    hours = [row.gpu_hours(row.expected) for row in found.rows]
    assert hours == sorted(hours)
    assert found.rows[0].expected.utilisation > found.rows[-1].expected.utilisation


def test_report_table_lines_up_and_has_the_money(found: Estimate) -> None:
    made = report(found, price=2.0)
    tables = [block for section in made.sections for block in section.blocks if isinstance(block, Table)]
    assert len(tables) == 3
    for table in tables:
        assert {len(row) for row in table.rows} == {len(table.columns)}
    money = tables[2].titles.index("money")
    for shown, row in zip(tables[2].rows[1::2], found.rows, strict=True):
        assert float(shown[money].replace(",", "")) == pytest.approx(
            2.0 * row.gpus * row.expected.seconds / 3600, abs=0.01
        )
    assert "Assumptions" in to_html(made)
    shares = [tables[2].titles.index(title) for title in ("used", "in vain")]
    for shown, row in zip(tables[2].rows[1::2], found.rows, strict=True):
        way = row.expected
        assert [shown[column] for column in shares] == [f"{way.utilisation:.0%}", f"{way.in_vain:.0%}"]
    assert json.loads(json.dumps(to_json(found, 2.0)))["rows"][0]["plain"]["money"] > 0


def test_plot_has_titles_and_units(found: Estimate) -> None:
    hours, used = draw(found).axes
    assert (hours.get_xlabel(), hours.get_ylabel()) == ("GPUs", "hours")
    assert hours.get_xscale() == used.get_xscale() == "log"
    assert all(axes.get_title(loc="left") for axes in (hours, used))


def test_durations_read_well() -> None:
    assert [duration(value) for value in (3.2, 75, 7260, 180000)] == ["3.2 s", "1 min 15 s", "2 h 1 min", "2 d 2 h"]


def test_mistakes_are_told() -> None:
    for arguments, told in (
        ({"seconds": 1.0, "measure": True}, "not both"),
        ({"price": 2.0}, "needs times"),
        ({"plot": Path("x.jpg")}, r"\.png"),
        ({"gpus": "1,many", "overrides": ["search.pruner=none"]}, "--gpus is a list"),
        ({"gpus": "0", "overrides": ["search.pruner=none"]}, "at least 1"),
    ):
        call = {"spec": "shapes-sd", "overrides": None, "seconds": None, "measure": False, "price": None}
        call |= {"gpus": "1", "storage": 500.0, "as_json": False, "plot": None}
        with pytest.raises(ValueError, match=told):
            command(**{**call, **arguments})


def test_the_command_prints_and_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the pruning of searches replayed on a grid of the stand-in."""
    recorded = stand_in_grid(make_spec(tmp_path))
    monkeypatch.setattr("keystep.cluster.estimating.replayed.load_grid", lambda: recorded)
    plot = tmp_path / "cost.png"
    optuna.logging.set_verbosity(optuna.logging.INFO)
    command("shapes-sd", None, 0.01, measure=False, price=1.5, gpus="8,1", storage=500.0, as_json=True, plot=plot)
    assert optuna.logging.get_verbosity() == optuna.logging.WARNING, "it would tell of every study of the replays"
    found = json.loads(capsys.readouterr().out)
    assert [row["gpus"] for row in found["rows"]] == [1, 8]
    for row in found["rows"]:
        assert row["expected"]["money"] == 1.5 * row["expected"]["gpu_hours"]
    assert found["instances"] == {"validation": 128, "held_out": 192}
    assert found["images"]["expected"] < found["images"]["plain"], "some trials are stopped early"
    assert plot.read_bytes().startswith(b"\x89PNG")

    trials, seeds = replayed_trials(load_spec("shapes-sd"))
    assert (len(trials), seeds) == (NUM_REPLAYS * 18, 1), "the stand-in has fewer settings than the 24 trials asked for"
    assert {trial.num_instances_total for trial in trials} == {32}
    assert replayed_trials(load_spec("shapes-sd", ["search.pruner=none"])) == ((), 1)


def space_of(found: Estimate) -> Space:
    return Space(found.spec, [step.timestep or 0.0 for step in found.steps])
