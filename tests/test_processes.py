import signal
import subprocess
import sys

import pytest
from absl import flags

from histojax import processes
from histojax.errors import UserError


class Store:
    """What JAX's runtime keeps for its processes."""

    def __init__(self):
        self.values = {}

    def key_value_set(self, key, value, allow_overwrite=False):
        assert allow_overwrite or key not in self.values
        self.values[key] = value

    def key_value_dir_get(self, key):
        return [pair for pair in self.values.items() if pair[0].startswith(key)]

    def key_value_delete(self, key):
        self.values = {k: v for k, v in self.values.items() if not k.startswith(key)}

    def wait_at_barrier(self, key, timeout):
        pass


def group(store, index, count):
    return processes._Group(store, index, count, None, iter(range(9)))


def given(*words):
    known = flags.FlagValues()
    processes.define_flags(known)
    known(["command", *words])
    return processes._given(known)


def test_one_process_is_alone_and_needs_no_jax():
    program = (
        "import sys\nfrom histojax import processes\nprocesses.start()\n"
        "assert (processes.index(), processes.count()) == (0, 1) and processes.first()\n"
        "assert processes.gather(3.5) == [3.5]\n"
        "with processes.first_alone() as writes: assert writes\n"
        "assert 'jax' not in sys.modules and 'numpy' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_flags_name_the_processes():
    words = ("--coordinator=10.0.0.1:1234", "--num_processes=4", "--process_id=3")
    expected = {"coordinator": "10.0.0.1:1234", "num_processes": 4, "process_id": 3}
    assert given(*words) == expected
    assert given() == {}
    assert given("--num_processes=1") == {"num_processes": 1}
    line = ["main.py", "--coordinator=a:1", "--steps=2", "-process_id=0"]
    assert processes.without_flags(line) == ["main.py", "--steps=2"]


@pytest.mark.faults
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--num_processes=2",), "--coordinator and --process_id is missing: --coordinator, --num"),
        (
            ("--coordinator=a:1", "--num_processes=2", "--process_id=2"),
            "--process_id=2 has to be below --num_processes=2",
        ),
        (
            ("--coordinator=a", "--num_processes=2", "--process_id=1"),
            "--coordinator=a has to be HOST:PORT, such as 10.0.0.1:1234",
        ),
    ],
)
def test_flags_that_do_not_fit_are_refused(words, message):
    with pytest.raises(UserError, match=message):
        given(*words)


@pytest.mark.parametrize(
    ("environment", "several"),
    [
        ({}, False),
        ({"SLURM_NTASKS": "1"}, False),
        ({"SLURM_NTASKS": "2"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, False),
        ({"OMPI_COMM_WORLD_SIZE": "8"}, True),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, False),
    ],
)
def test_clusters_are_looked_for_where_there_may_be_one(environment, several, monkeypatch):
    monkeypatch.setattr(processes.os, "environ", {"JAX_PLATFORMS": "cpu", **environment})
    assert processes._in_cluster() == several


@pytest.mark.parametrize(
    ("environment", "package", "name", "several"),
    [
        ({"JOB_COMPLETION_INDEX": "0"}, True, "train-0.pods.default.svc.cluster.local", True),
        # Pods of an indexed job without a subdomain do not reach each other.
        ({"JOB_COMPLETION_INDEX": "0"}, True, "train-0", False),
        ({"JOB_COMPLETION_INDEX": "0"}, False, "train-0.pods.default.svc.cluster.local", False),
        ({}, True, "train-0.pods.default.svc.cluster.local", False),
    ],
)
def test_pods_of_kubernetes_count_as_one_where_jax_can_join_them(
    environment, package, name, several, monkeypatch
):
    environment = {"JAX_PLATFORMS": "cpu", "KUBERNETES_SERVICE_HOST": "10.0.0.1", **environment}
    monkeypatch.setattr(processes.os, "environ", environment)
    monkeypatch.setattr(processes.importlib.util, "find_spec", lambda _: package or None)
    monkeypatch.setattr(processes.socket, "getfqdn", lambda: name)
    assert processes._in_cluster() == several


STARTED = """
import os, sys
from unittest import mock
import jax
from histojax import errors, processes
from jax._src.distributed import global_state
global_state.num_processes = 1
failure = {"none": None, "value": ValueError("x"), "other": LookupError("no token")}[sys.argv[1]]
with mock.patch.object(processes, "_in_cluster", return_value=True):
    with mock.patch.object(jax.distributed, "initialize", side_effect=failure):
        try:
            processes.start()
        except errors.UserError as error:
            print(error)
os.abort()
"""


@pytest.mark.faults
@pytest.mark.parametrize("failure", ["none", "value", "other"])
def test_a_process_that_is_alone_after_all_aborts_without_a_sentence(failure):
    done = subprocess.run([sys.executable, "-c", STARTED, failure], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (-signal.SIGABRT, "")
    if failure == "other":  # such as kubernetes.config.ConfigException
        assert done.stdout.startswith("the processes cannot be joined (no token): check that all")
        assert done.stdout.endswith("; --num_processes=1 runs this one alone\n")


def test_values_of_all_processes_come_in_their_order(monkeypatch):
    store = Store()
    values = [{"a": 0.1 + 0.2}, None, [1e-300, "x"]]
    for index in (2, 0, 1):
        monkeypatch.setattr(processes, "_group", group(store, index, 3))
        found = processes.gather(values[index])
    assert found == values


@pytest.mark.faults
def test_processes_with_other_configs_are_refused(monkeypatch):
    store = Store()
    monkeypatch.setattr(processes, "_group", group(store, 1, 2))
    processes.check_alike("config", lambda: {"steps": 3})
    monkeypatch.setattr(processes, "_group", group(store, 0, 2))
    with pytest.raises(UserError, match="process 1 has another config than process 0: give all"):
        processes.check_alike("config", lambda: {"steps": 4})


@pytest.mark.faults
def test_a_process_whose_number_stands_still_is_lost(monkeypatch):
    store, now = Store(), iter(range(0, 1000, 20))
    monkeypatch.setattr(processes.time, "monotonic", lambda: float(next(now)))
    one = group(store, 0, 3)
    seen = dict.fromkeys(range(3), ("", 0.0))
    for look in range(3):
        store.values |= {"histojax/alive/0": f"{look}", "histojax/alive/2": f"{look}"}
        if look == 0:
            store.values["histojax/alive/1"] = "0"
        processes._judge(one, seen)
    assert list(processes._ended(one)) == [1]
    assert processes._ended(one)[1].startswith("no sign of life for 20 s: killed")
