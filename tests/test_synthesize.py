import re
import subprocess
import sys

import pytest


@pytest.mark.faults
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], r"by --workdir=RUN, a pyramid, or by --builtin: give one of the two"),
        (["--builtin", "--workdir=w"], r"give one of the two"),
    ],
)
def test_what_makes_the_tissue_is_named_once(words, said):
    done = subprocess.run(
        [sys.executable, "-m", "histojax.synthesize", "--masks=m", "--output=o", *words],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert re.search(said, done.stderr)
    assert "Traceback" not in done.stderr
