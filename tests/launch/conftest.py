import sys

import pytest

from launch import jobs
from tests.launch.stand_in import CONFIG, STAND_IN


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A folder with a config and a main command that trains nothing."""
    (tmp_path / "main.py").write_text(STAND_IN)
    (tmp_path / "configs").mkdir()
    (tmp_path / CONFIG).touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(jobs, "PROGRAM", (sys.executable, "main.py"))
    return tmp_path
