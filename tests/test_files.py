import errno
import os
import platform
import subprocess
import sys
import time
import types

import pytest

from histojax import files
from histojax.errors import DiskError, UserError
from tests import tiny

pytestmark = pytest.mark.faults


def test_a_refusal_says_what_why_and_how_much_space_there_is(tmp_path, monkeypatch):
    asked = []

    def usage(folder):
        asked.append(folder)
        if not folder.exists():
            raise FileNotFoundError(folder)
        return types.SimpleNamespace(free=12_345_678)

    monkeypatch.setattr(files.shutil, "disk_usage", usage)
    path = tmp_path / "not" / "yet" / "a.png"
    with pytest.raises(DiskError) as failure, files.disk_errors(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert str(failure.value) == (
        f"Writing to {path} failed (No space left on device; 12.3 MB are free): free space there "
        "or name a folder that can be written"
    )
    assert asked[-1] == tmp_path


HOLD = """
import pathlib, sys
from histojax import files
with files.sole_use(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_folder_in_use_is_refused_until_its_process_is_gone(tmp_path):
    folder = tmp_path / "run"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        expected = f"{folder} is in use by process {holder.pid} on {platform.node()}: wait for"
        with pytest.raises(UserError) as failure, files.sole_use(folder):
            pass
        assert str(failure.value).startswith(expected)
        holder.kill()
        holder.wait()
    with files.sole_use(folder):
        name = (folder / ".lock").read_text().strip()
        assert name == f"process {os.getpid()} on {platform.node()}"


def test_a_lock_ends_with_its_block(tmp_path):
    with pytest.raises(KeyError), files.sole_use(tmp_path):
        raise KeyError
    with files.sole_use(tmp_path):
        pass


def test_a_file_system_without_locks_is_used_and_said(tmp_path, monkeypatch, caplog):
    def none(number, blocking):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(files.filelock, "lock_descriptor", none)
    with caplog.at_level("WARNING"), files.sole_use(tmp_path):
        assert "has no locks" in caplog.text


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match="Not a directory"), files.sole_use(tmp_path / "file" / "x"):
        pass


@pytest.mark.parametrize("missing", [True, False])
def test_a_folder_on_a_read_only_disk_is_one_sentence(tmp_path, missing):
    folder = tmp_path / "run" if missing else tmp_path
    with (
        tiny.read_only_disk(),
        pytest.raises(DiskError, match=rf"{folder}/\.lock failed \(Read-only file system; "),
        files.sole_use(folder),
    ):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to read-only folders")
def test_a_folder_without_permission_is_one_sentence(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(DiskError, match="Permission denied"), files.sole_use(tmp_path / "run"):
        pass


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("~/x", "/home/me/x"),
        ("--workdir=~/x", "--workdir=/home/me/x"),
        ("--data=folder:~", "--data=folder:/home/me"),
        ("mix:folder:~/a=0.7,folder:~/b=0.3", "mix:folder:/home/me/a=0.7,folder:/home/me/b=0.3"),
        ("a~/x", "a~/x"),
        ("out/~", "out/~"),
        ("~nobody-of-this-name/x", "~nobody-of-this-name/x"),
    ],
)
def test_home_is_known_wherever_a_path_may_begin(monkeypatch, text, expected):
    monkeypatch.setenv("HOME", "/home/me")
    assert files.with_homes(text) == expected


def test_what_a_dead_process_was_writing_is_cleared(tmp_path):
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    here, there = files._MACHINE, "00000000"
    names = {
        f".0123abcd.{here}.{ended.pid}.part": False,
        f".4567abcd.{here}.{ended.pid}.part": True,  # a minute ago, in another container
        f".0123abcd.{here}.{os.getppid()}.part": True,  # that lives
        f".0123abcd.{there}.{ended.pid}.part": True,  # of another machine, where it may live
        f".notes.{ended.pid}.part": True,  # none of ours
    }
    now = time.time()
    for name in names:
        (tmp_path / name).write_text("half")
        written = now - 60 if name.startswith(".4567abcd") else now - 3700
        os.utime(tmp_path / name, (written, written))
    with files.atomic_path(tmp_path / "a.txt") as part:
        part.write_text("whole")
    kept = {name for name, stays in names.items() if stays}
    assert {path.name for path in tmp_path.iterdir()} == {*kept, "a.txt"}


def test_a_folder_of_results_is_tried_before_the_work(tmp_path):
    files.check_writable(tmp_path / "a" / "b")
    assert not list((tmp_path / "a" / "b").iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match="Not a directory"):
        files.check_writable(tmp_path / "file" / "b")
