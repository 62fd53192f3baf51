"""The figures and tables that a finished search leaves in MLflow."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keystep.search.reporting import plots
from keystep.search.settings.space import Space
from keystep.search.settings.study import study_name
from keystep.search.tracking.run_fields import estimates, metric_name
from keystep.search.tracking.search_facts import BASELINE, Tally
from keystep.search.tracking.study_plots import study_of, write_study_plots

if TYPE_CHECKING:
    from keystep.search.spec.instances import Part


def draw_search(tally: Tally, held_out: Mapping[str, Mapping[int, float]], folder: Path) -> list[Path]:
    """Draw what there is enough for, into `folder`.

    Args:
        tally: of the whole search.
        held_out: outcomes by instance number of the held-out part, of `baseline` and `winner`; may be empty.
    """
    facts = tally.facts
    name, baseline = facts.spec.name, tally.estimate(BASELINE)
    made: list[Path] = []
    if points := tally.curve():
        title = f"{name}: TIAM by the step that is refined"
        figure = plots.tiam_by_timestep(points, baseline, tally.gsng_alone(), title=title)
        made.append(plots.save(figure, folder / "tiam_by_timestep.png"))
    if best := tally.best():
        images = tally.images[-len(best) :]
        figure = plots.best_so_far(best, images, baseline, title=f"{name}: the best setting so far")
        made.append(plots.save(figure, folder / "best_so_far.png"))
    if held_out and facts.held_out is not None:
        before, after = (_by_set(facts.held_out, held_out[side]) for side in ("baseline", "winner"))
        figure = plots.sets_before_after(before, after, title=f"{name}: held-out prompts, before and after")
        made.append(plots.save(figure, folder / "held_out.png"))
    study = study_of(study_name(facts.spec.search_id), tally.ended, Space(facts.spec, facts.timesteps).distributions())
    if write_study_plots(study, folder / "study.html"):
        made.append(folder / "study.html")
    return made


def outcome_table(part: "Part", outcomes: Mapping[str, Mapping[int, float]]) -> dict[str, Any]:
    """A row a (prompt, seed) with any outcome, a column a setting, as `mlflow.load_table` reads it."""
    rows = []
    for instance in part.instances:
        values = [found.get(instance.number) for found in outcomes.values()]
        if any(value is not None for value in values):
            rows.append([instance.set_name, instance.prompt.text, instance.seed, *values])
    return {"columns": ["set", "prompt", "seed", *outcomes], "data": rows}


def _by_set(part: "Part", values: Mapping[int, float]) -> dict[str, Any]:
    return {metric_name(name): found for name, found in estimates(part, values).items() if name}
