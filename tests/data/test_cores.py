import os

import pytest

from histojax.data import cores


def test_usable_cores_are_those_of_the_process():
    assert 1 <= len(cores.usable()) <= os.cpu_count()
    if hasattr(os, "sched_getaffinity"):
        assert set(cores.usable()) == os.sched_getaffinity(0)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no choice of cores")
@pytest.mark.parametrize(
    ("siblings", "expected"),
    [
        # Numbered next to each other, or half of all apart; unknown, where they are taken as they
        # come; and some of them not this process's.
        ({0: "0-1", 1: "0-1", 2: "2-3", 3: "2-3"}, [{0, 1}, {2, 3}]),
        ({0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"}, [{0, 2}, {1, 3}]),
        (dict.fromkeys((1, 4, 5)), [{1, 4}, {5}]),
        ({2: "2,6", 4: "4,8", 6: "2,6", 7: "3,7"}, [{2, 6}, {7, 4}]),
    ],
)
def test_processes_share_cores_out_by_physical_core(siblings, expected, tmp_path, monkeypatch):
    for core, text in siblings.items():
        if text is not None:
            (tmp_path / str(core)).write_text(f"{text}\n")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(siblings))
    monkeypatch.setattr(cores, "_SIBLINGS", str(tmp_path / "{}"))
    assert cores.shares(2) == expected


def test_one_alone_and_more_than_there_are_cores_may_use_any(monkeypatch):
    monkeypatch.setattr(cores, "usable", lambda: [0, 1, 2])
    assert cores.shares(1) == [None]
    assert cores.shares(4) == [None] * 4
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    assert cores.shares(2) == [None, None]
