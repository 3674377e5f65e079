"""The scripts for clusters, run dry."""

import os
import pathlib
import shutil
import subprocess

import pytest

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"
WORDS = ("--config=configs/joint.py:gpu", "--workdir=my runs/joint")
TEXT = {"capture_output": True, "text": True}


def dry(script, *words, **variables):
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        [LAUNCH / script, *words],
        env={**kept, "DRY_RUN": "1", **variables},
        **TEXT,
    )


def task(number, first, last, count):
    names = ("ID", "MIN", "MAX", "COUNT")
    values = map(str, (number, first, last, count))
    return {f"SLURM_ARRAY_TASK_{name}": value for name, value in zip(names, values, strict=True)}


def test_a_job_of_slurm_runs_its_command():
    printed = dry("slurm.sh", "histojax.main", *WORDS).stdout.split(" python ")
    assert printed[0].startswith("srun ")
    assert printed[1] == f"-m histojax.main {WORDS[0]} --workdir=my\\ runs/joint \n"


@pytest.mark.parametrize(
    ("module", "share"),
    [("launch.sweep", "--hosts=4 --host=2"), ("histojax.predict", "--num_parts=4 --part=2")],
)
def test_a_task_of_an_array_takes_its_share(module, share):
    done = dry("slurm.sh", module, "--output=out", **task(7, 5, 8, 4))
    assert done.stdout.endswith(f"-m {module} {share} --output=out \n")


@pytest.mark.faults
@pytest.mark.parametrize(
    ("script", "words", "variables", "message"),
    [
        ("slurm.sh", [], {}, "no command; give a module"),
        ("slurm.sh", ["histojax.main"], task(0, 0, 3, 4), "histojax.main cannot be shared by"),
        ("slurm.sh", ["launch.sweep"], task(0, 0, 6, 4), "the array has gaps"),
        ("tpu.sh", [], {}, "no command; give a module"),
        ("tpu.sh", ["histojax.main"], {"ZONE": "b"}, "TPU is not set; give"),
        ("tpu.sh", ["histojax.main"], {"TPU": "a"}, "ZONE is not set; give"),
    ],
)
def test_what_cannot_be_run_is_refused(script, words, variables, message):
    done = dry(script, *words, **variables)
    assert done.returncode == 2
    assert done.stderr.startswith("histojax: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_slice_runs_the_command_on_all_hosts():
    done = dry("tpu.sh", "histojax.main", *WORDS, TPU="slice", ZONE="us-a", FOLDER="code")
    # As the shell here, then the shell there, read it.
    here = subprocess.run(["bash", "-c", f"printf '%s\\n' {done.stdout}"], **TEXT).stdout
    *start, remote = here.splitlines()
    assert " ".join(start) == "gcloud compute tpus tpu-vm ssh slice --zone=us-a --worker=all"
    there = remote.removeprefix("--command=cd code && exec python3 ")
    words = subprocess.run(["bash", "-c", f"printf '%s\\n' {there}"], **TEXT).stdout
    assert words.splitlines() == ["-m", "histojax.main", *WORDS]


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs shellcheck")
def test_scripts_pass_shellcheck():
    done = subprocess.run(["shellcheck", *LAUNCH.glob("*.sh")], **TEXT)
    assert done.returncode == 0, done.stdout
