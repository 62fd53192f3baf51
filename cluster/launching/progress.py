"""How far a launched search is, by the result that it keeps up to date in its storage."""

from keystep.cluster.sending.launches import Launch
from keystep.search.choice.stored_searches import load_result
from keystep.search.storing.secrets import masked


def progress_line(launch: Launch) -> str:
    """Trials, and the verdict if there is one; or why that is not known here."""
    try:
        result = load_result(launch.search_id, launch.storage)
    except (ValueError, OSError):
        return f"Nothing of it is seen from here in its storage, {masked(launch.storage)}, yet."
    counts = {state: sum(trial.state == state for trial in result.trials) for state in ("complete", "pruned", "failed")}
    told = ", ".join(f"{count} {state}" for state, count in counts.items() if count) or "none yet"
    line = f"Search {result.status}: {len(result.trials)} of at most {result.spec.search.trials} trials ended ({told})"
    if result.held_out is not None:
        line += "; a significant gain on held-out prompts" if result.significant else "; no significant gain"
    return f"{line}. keystep report {launch.search_id} --storage {masked(launch.storage)}"
