"""Kills at random moments: driver, worker, raylet, GCS, MLflow server. Every search ends as if nothing had happened.

`KEYSTEP_SOAK_KILLS` (30) says how many, `KEYSTEP_SOAK_SEED` which; each is printed (pytest -s) when it is done.
"""

import os
from collections import Counter
from pathlib import Path

import pytest
from click.testing import Result

from tests.search.mlflow_server import MlflowServer, free_port
from tests.search.soak import STAGES, VICTIMS, Soak, plan
from tests.search.test_two_searches import outcomes_in
from tests.search.whole_search import found_in

KILLS = int(os.environ.get("KEYSTEP_SOAK_KILLS", "30"))
SEED = int(os.environ.get("KEYSTEP_SOAK_SEED", "20261128"))


def test_the_plan_hits_everything_in_every_stage() -> None:
    kills = plan(SEED, 30)
    assert len(kills) == 30 and kills == plan(SEED, 30) != plan(SEED + 1, 30)
    stages = Counter(kill.stage for kill in kills)
    assert stages["trials"] >= 10 and stages["held-out"] >= 5 and set(stages) == set(STAGES)
    assert Counter(kill.victim for kill in kills) == dict.fromkeys(VICTIMS, 6)


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
@pytest.mark.usefixtures("quick_workers")
def test_whatever_is_killed_every_search_ends_with_the_same(searched: tuple[Path, Result], tmp_path: Path) -> None:
    undisturbed, said = searched
    assert said.exit_code == 0, said.stderr
    (tmp_path / "mlflow").mkdir()
    server = MlflowServer(tmp_path / "mlflow", free_port()).start()
    soak = Soak(tmp_path, server, (found_in(undisturbed), outcomes_in(undisturbed)))
    try:
        soak.run(plan(SEED, KILLS))
    finally:
        server.kill()
        print(f"{len(soak.done)} kills; {soak.longest:.1f} s from a death to the end of the command at most")
    assert len(soak.done) == KILLS
