import subprocess
import sys

import pytest


@pytest.mark.faults
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--data=synthetic", "--with_images"], "--with_images is for --kind=predicted"),
        ([], "give one of the two"),
        (["--data=synthetic", "--workdir=run"], "give one of the two"),
        (["--kind=predicted"], "--kind=predicted needs --workdir=RUN"),
        (["--kind=predicted", "--workdir=run", "--data=synthetic"], "give that instead of --data"),
    ],
)
def test_words_that_do_not_go_together_are_refused(words, said, tmp_path):
    command = [sys.executable, "-m", "histojax.masks", f"--output={tmp_path / 'masks'}"]
    done = subprocess.run([*command, *words], capture_output=True, text=True)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "masks").exists()
