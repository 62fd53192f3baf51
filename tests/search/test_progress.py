"""What a search shows: shares and paces by hand, plain lines on a pipe, the view as a terminal has it."""

import io
import pickle
import re
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from keystep.search.choice.search_costs import SearchCosts
from keystep.search.reporting import progress
from keystep.search.reporting.progress import Images, SearchView, ViewCallback, Watched


class Clock:
    """Stands in for time, so that paces are known."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def watched(clock: Clock, **state: Any) -> Watched:
    return Watched("tiny (0123)", 4, started=clock.now, stage_started=clock.now, **state)


def test_share_of_blocks_and_of_trials(clock: Clock) -> None:
    assert watched(clock).share == 0.0, "nothing is known of the stage yet"
    assert watched(clock, stage="baseline", done=3, total=12).share == 0.25
    # One complete, one pruned, and half and a quarter of two others, of 4.
    running = {2: (0.5, 8, 16), 3: (0.0, 4, 16)}
    state = watched(clock, stage="trials", complete=1, pruned=1, running=running)
    assert state.share == pytest.approx(2.75 / 4)
    state.running[3] = (0.0, 0, 0)  # just started
    assert state.share == pytest.approx(2.5 / 4)
    state.complete, state.failed = 3, 1
    assert state.share == 1.0
    assert Watched("none", 0, stage="trials").share == 1.0


def test_eta_is_what_is_left_of_the_whole_search_at_its_pace_so_far(clock: Clock) -> None:
    images = Images(baseline=10, trial=20, held_out=30)  # and four trials
    state = watched(clock, stage="baseline", done=0, total=10, images=images)
    clock.now += 30.0
    assert state.eta is None
    state.done = 5
    # 5 images in 30 s; left are 5 of the baseline, four whole trials of 20 and the held-out 30.
    assert state.eta == pytest.approx(6.0 * (5 + 80 + 30))

    running = {2: (0.5, 6, 20), 3: (0.0, 2, 20)}
    state = watched(clock, stage="trials", complete=1, pruned=1, seen=24, running=running, images=images)
    clock.now += 42.0
    # Trials that ended saw 12 on average: of those running 6 and 10 are left. 10 + 24 + 8 images in 42 s.
    assert state.eta == pytest.approx(6 + 10 + 30)

    state = watched(clock, stage="held-out", complete=4, seen=50, done=1, total=3, images=images)
    clock.now += 70.0
    assert state.eta == pytest.approx(20)  # 10 + 50 + 10 images in 70 s
    state.stage = "pictures"
    assert state.eta is None


def test_what_an_earlier_process_did_says_nothing_of_the_pace(clock: Clock) -> None:
    state = watched(clock, stage="trials", images=Images(baseline=0, trial=20, held_out=0))
    view = SearchView(state, io.StringIO())
    view.resume(["complete", "pruned"], 30)
    clock.now += 60.0
    assert state.eta is None
    state.pruned, state.seen = 2, 45
    assert state.eta == pytest.approx(60.0)  # 15 images in 60 s, one trial of 15 to go


def test_saved_says_what_was_spent(clock: Clock) -> None:
    assert watched(clock).saved == "none yet"
    assert watched(clock, spent=1500.0, plain=6000.0).saved == "1,500 of 6,000 (75% saved)"
    assert watched(clock, spent=0.0, plain=10.0).saved == "0 of 10 (100% saved)"


def test_plain_lines_where_there_is_no_terminal(clock: Clock) -> None:
    stream = io.StringIO()
    view = SearchView(watched(clock, images=Images(baseline=8, trial=1, held_out=8)), stream)
    with view.shown():
        view.stage("baseline", 8)
        clock.now += 5.0
        view.advance(1, spent=10.0, plain=40.0)  # too soon after the last line
        clock.now += 6.0
        view.advance(3, spent=30.0, plain=40.0)
        view.best("unrefined 25.0 % [0.0, 50.0]")
        view.stage("trials")
        view.note(
            "a path [with brackets], and a line that is longer than the eighty columns of a terminal that is none"
        )
    assert stream.getvalue().splitlines()[:3] == [
        "[0:00] baseline 0%",
        "[0:11] baseline 50%; evaluations 40 of 80 (50% saved); about 0:44 left",  # 4 images in 11 s, 16 to go
        "[0:11] trials 0%; 0 running, 0 complete, 0 pruned, of 4; best unrefined 25.0 % [0.0, 50.0]; "
        "evaluations 40 of 80 (50% saved); about 0:16 left",
    ]
    assert "a path [with brackets]," in stream.getvalue() and "\x1b" not in stream.getvalue()


def test_the_view_on_a_terminal(clock: Clock) -> None:
    running = {5: (0.5, 8, 16)}
    state = watched(clock, stage="trials", complete=1, pruned=1, failed=1, running=running, spent=1.0, plain=4.0)
    # 24 images of trials that ended, 8 of the one that runs; as many are left: three trials of 8, and 8 held-out ones.
    state.images, state.seen = Images(baseline=0, trial=16, held_out=8), 24
    state.num_slots, state.best = 7, "step 1, 5 iterations: 62.5 % [50.0, 75.0]"
    clock.now += 3700.0
    console = Console(record=True, width=100, file=io.StringIO(), force_terminal=True)
    console.print(SearchView(state, io.StringIO()).render())
    text = console.export_text()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    assert [re.split(r"  +", line, maxsplit=1) for line in (lines[0], *lines[2:])] == [
        ["search", "tiny (0123), 1:01:40"],
        ["trials", "1 running, 1 complete, 1 pruned, 1 failed, of 7"],
        ["best so far", "step 1, 5 iterations: 62.5 % [50.0, 75.0]"],
        ["evaluations", "1 of 4 (75% saved)"],
    ]
    assert re.fullmatch(r"trials +━*[╸╺]?━* +50% about 1:01:40 left", lines[1])


def test_a_terminal_gets_the_view_and_not_the_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    monkeypatch.setenv("TERM", "xterm-256color")
    stream = io.StringIO()
    view = SearchView(Watched("tiny (0123)", 4), stream)
    with view.shown():
        view.stage("baseline", 8)
        view.advance(4)
        view.note("a line that stays")
    shown = Console(file=io.StringIO()).render_str(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())).plain
    assert "tiny (0123)" in shown and " 50%" in shown and "a line that stays" in shown
    assert "[0:00] baseline" not in shown


def trial(slot: int) -> Any:
    return SimpleNamespace(config={"slot": slot})


def result(slot: int, seen: int, tiam: float = 0.5) -> dict[str, Any]:
    cost = {"evaluations": 10.0, "evaluations_alone": 25.0}
    return {"slot": slot, "tiam": tiam, "num_instances": seen, "num_total": 8, **cost}


def test_the_callback_counts_what_trials_do() -> None:
    state = Watched("tiny", 6, stage="trials")
    view = SearchView(state, io.StringIO())
    view.resume(["complete", "pruned", "pruned"])
    assert (state.complete, state.pruned, state.failed, state.known) == (1, 2, 0, 3)
    callback = ViewCallback(view)
    for slot in (3, 4, 5):
        callback.on_trial_start(0, [], trial(slot))
        assert state.running[slot] == (0.0, 0, 0)
        callback.on_trial_result(1, [], trial(slot), result(slot, 4))
    assert state.running == dict.fromkeys((3, 4, 5), (0.5, 4, 8))
    assert state.share == pytest.approx((3 + 3 * 0.5) / 6)
    callback.on_trial_start(1, [], trial(5))  # again, after its worker died
    assert state.running[5] == (0.5, 4, 8)

    callback.on_trial_result(2, [], trial(3), result(3, 8, 0.75))
    callback.on_trial_complete(2, [], trial(3))
    callback.on_trial_complete(2, [], trial(4))  # with half of its instances
    callback.on_trial_error(2, [], trial(5))
    assert (state.complete, state.pruned, state.failed) == (2, 3, 1)
    assert state.running == {} and state.ended == 6 and state.share == 1.0
    view.spent(SearchCosts(evaluations_spent=40.0, evaluations_plain=100.0))
    assert state.saved == "40 of 100 (60% saved)"


def test_the_callback_is_pickled_without_the_view() -> None:
    view = SearchView(Watched("tiny", 6), open("/dev/null", "w"))  # noqa: SIM115 - a stream that cannot be pickled
    with pytest.raises(TypeError):
        pickle.dumps(view)
    callback = ViewCallback(view)
    assert isinstance(pickle.loads(pickle.dumps(callback)), ViewCallback)
    assert callback._view is view
