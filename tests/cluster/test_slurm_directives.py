"""What a batch job can be told beside its size: every cluster's own, and no directive smuggled in."""

from pathlib import Path

import pytest

from tests.cluster.tiny import keystep, spec_in


def planned(folder: Path, *options: str) -> tuple[int, str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        done = keystep("launch", spec_in(folder), "--target", "slurm", "--dry-run", *options)
    return done.exit_code, done.output


@pytest.mark.parametrize(
    ("options", "lines"),
    [
        (["--account", "me@proj.example"], ["--account=me@proj.example"]),
        (["--partition", "gpu,gpu-long,short"], ["--partition=gpu,gpu-long,short"]),
        (["--qos", "high_prio", "--reservation", "maint-1"], ["--qos=high_prio", "--reservation=maint-1"]),
        (["--constraint", "[rack1|rack2]&ib*2"], ["--constraint=[rack1|rack2]&ib*2"]),
        (["--gpu-type", "a100", "--gpus", "4"], ["--gpus-per-node=a100:4"]),
        (["--directive", "gres=gpu:h100:4", "--gpus", "4"], ["--gres=gpu:h100:4"]),
        (["--directive", "gres=gpu,license:2"], ["--gres=gpu,license:2"]),
        (["--directive", "gres=nvme:1"], ["--gpus-per-node=1", "--gres=nvme:1"]),
        (
            ["--directive", "mail-type=END,FAIL", "--directive", "mail-user=me@uni.edu", "--directive", "nice"],
            ["--mail-type=END,FAIL", "--mail-user=me@uni.edu", "--nice"],
        ),
        (["--directive", "exclusive=user"], ["--exclusive=user"]),
    ],
    ids=lambda value: " ".join(value)[:50],
)
def test_what_clusters_ask_for(options: list[str], lines: list[str], tmp_path: Path) -> None:
    code, text = planned(tmp_path, *options)
    assert code == 0, text
    directives = [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH ")]
    assert [line for line in lines if line not in directives] == []
    names = [line.partition("=")[0] for line in directives]
    assert len(set(names)) == len(names)  # none is given twice, of which sbatch would take the last
    # The directives stand together at the top: sbatch reads none after the first command.
    assert text.splitlines()[1 : len(directives) + 1] == [f"#SBATCH {line}" for line in directives]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--directive", "mail-user=a\n#SBATCH --wrap=id"], "must be KEY=VALUE or KEY of sbatch"),
        (["--directive", "comment=a --wrap=id"], "without blanks"),
        (["--directive", "comment='a"], "quotes"),
        (["--directive", "comment=$(id)`"], "must be KEY=VALUE"),
        (["--directive", "--mail-type=END"], "without dashes before it"),
        (["--directive", "=x"], "must be KEY=VALUE"),
        (["--directive", "time=1:00"], "time has an option of its own: use --time"),
        (["--directive", "gpus-per-node=2"], "use --gpus"),
        (["--directive", "output=/tmp/x"], "output is set by keystep"),
        (["--directive", "no-requeue"], "no-requeue is set by keystep"),
        (["--directive", "comment=hf_" + "a1" * 17], "holds a secret"),
        (["--directive", "gres=gpu:h100:8"], "gres names 8 GPUs a node, and gpus is 1: give both the same number"),
        (["--gpu-type", "a100", "--gpus", "0"], "gpu_type names a kind of GPU, and gpus is 0"),
        (["--account", "a b"], "account: must be letters"),
        (["--account", "a\n#SBATCH --wrap=id"], "account: must be letters"),
        (["--account", "a;id"], "account: must be letters"),
        (["--partition", "gpu,,x"], "partition: must be letters, digits and"),
        (["--qos", "-x"], "qos: must be letters"),
        (["--constraint", "a b"], "constraint: must be features"),
        (["--constraint", "a'"], "constraint: must be features"),
        (["--gpu-type", "a100:8"], "gpu_type: must be a kind of GPU"),
    ],
    ids=lambda value: " ".join(value)[:50] if isinstance(value, list) else None,
)
def test_what_is_none_of_sbatch_s_or_would_be_more_is_refused(options: list[str], said: str, tmp_path: Path) -> None:
    code, text = planned(tmp_path, *options)
    assert code == 2 and said in " ".join(text.split()), text
    assert "a1a1a1" not in text and "#SBATCH --job-name" not in text
