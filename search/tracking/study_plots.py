"""Optuna's own plots of a search's study, as a page that stands alone."""

import warnings
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

    from keystep.search.tracking.search_facts import Ended

MIN_COMPLETE = 4  # below, importances say nothing


def study_of(name: str, trials: "Sequence[Ended]", distributions: "Mapping[str, BaseDistribution]") -> "optuna.Study":
    """A search's trials that ended as an Optuna study in memory, in the order they ended."""
    import optuna

    states = {"complete": optuna.trial.TrialState.COMPLETE, "pruned": optuna.trial.TrialState.PRUNED}
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(study_name=name, direction="maximize")
    optuna.logging.set_verbosity(before)
    for trial in trials:
        if trial.estimate is not None and trial.state in states:
            study.add_trial(
                optuna.create_trial(
                    state=states[trial.state],
                    value=trial.estimate.mean,
                    params=dict(trial.params),
                    distributions={param: distributions[param] for param in trial.params},
                )
            )
    return study


def write_study_plots(study: "optuna.Study", path: Path) -> bool:
    """Write a page (plotly, no network needed) with parameter importances, slices and history of TIAM.

    Importances need some fully evaluated trials that differ. Whether there was anything to write.
    """
    from optuna import exceptions, visualization
    from optuna.trial import TrialState

    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not any(trial.params for trial in complete):
        return False
    figures = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=exceptions.ExperimentalWarning)
        if len(complete) >= MIN_COMPLETE and len({trial.value for trial in complete}) > 1:
            figures.append(visualization.plot_param_importances(study, target_name="TIAM"))
        figures.append(visualization.plot_slice(study, target_name="TIAM"))
        figures.append(visualization.plot_optimization_history(study, target_name="TIAM"))
    pages = []
    for number, figure in enumerate(figures):
        figure.update_layout(template="simple_white", margin_t=70)
        pages.append(figure.to_html(include_plotlyjs=number == 0, full_html=False, default_height="440px"))
    path.parent.mkdir(parents=True, exist_ok=True)
    head = f"<!doctype html><html><head><meta charset='utf-8'><title>{escape(study.study_name)}</title></head>"
    path.write_text(f"{head}<body style='font-family: sans-serif'>{''.join(pages)}</body></html>", encoding="utf-8")
    return True
