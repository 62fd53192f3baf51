"""What a search can end with beside a user's mistake: work on a worker that fails again and again."""


class WorkFailed(RuntimeError):
    """Workers could not do what was asked of them. Its message says what failed last, and what to do."""


class RayDied(WorkFailed):
    """The Ray runtime that a search works in is gone. Its message says what of it, and what to do."""


def in_a_line(problem: BaseException) -> str:
    """The innermost cause of an exception as `Type: first line`; what Ray wraps around it is left out.

    Of a worker that died as it started, Ray hands over only text: a traceback, whose last line says it.
    """
    while (inner := getattr(problem, "cause", None) or problem.__cause__) is not None:
        problem = inner
    lines = str(problem).strip().splitlines()
    if getattr(problem, "actor_init_failed", False):
        return lines[-1].strip()
    return f"{type(problem).__name__}: {lines[0]}" if lines else type(problem).__name__
