"""How far a search was when it was interrupted, and that the same command goes on."""

from keystep.search.reporting.progress import Watched

AFTER_TRIALS = ("held-out", "metrics", "pictures")
GOES_ON = "The same command goes on from there; what was judged once is not made again."


def how_far(watched: Watched, num_ended: int) -> str:
    """Stage, trials done and denoiser evaluations, in two sentences.

    Args:
        watched: as the search was.
        num_ended: trials that ended, in this run and before.
    """
    if watched.stage == "preflight":
        return "interrupted in preflight, before anything was judged. The same command starts it again."
    done = [f"{watched.done} of {watched.total} blocks done"] if watched.stage != "trials" and watched.total else []
    if watched.stage == "trials" or watched.stage in AFTER_TRIALS:
        done.append(f"{num_ended} of {watched.num_slots} trials ended")
    done += [f"{len(watched.running)} under way"] if watched.running else []
    done += [f"{watched.spent:,.0f} denoiser evaluations spent"] if watched.spent else []
    return ": ".join([f"interrupted in {watched.stage}", *([", ".join(done)] if done else [])]) + f". {GOES_ON}"
