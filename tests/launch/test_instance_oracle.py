import pathlib
import subprocess
import sys

import numpy as np
import skimage.io

from tests.launch.commands import load

ROOT = pathlib.Path(__file__).parents[2]
instance_oracle = load("launch.instance_oracle")


def touching_squares():
    """Two nuclei of 15 x 15 px side by side and one alone, int32 (40, 80)."""
    truth = np.zeros((40, 80), np.int32)
    truth[5:20, 5:20], truth[5:20, 20:35], truth[20:35, 60:75] = 7, 3, 9
    return truth


def test_markers_part_what_touches_and_components_do_not():
    truth = touching_squares()
    nuclei = instance_oracle.found_in(truth)
    for kind, labels in nuclei.items():
        assert labels.max() == (2 if kind == "components of the mask" else 3), kind
    # Squares' markers and the line between them are symmetric: the default gives the truth back,
    # but for its column in the middle, and the published form a px more around each nucleus.
    found = nuclei["default, shape markers"]
    np.testing.assert_array_equal(found > 0, truth > 0)
    wrong = (found == 1) != (truth == 7)
    assert not wrong[:, :19].any()
    assert not wrong[:, 21:].any()
    grown = nuclei["usenet"]
    assert (grown[20:35, 60:75] == grown[27, 67]).all()
    assert (grown == grown[27, 67]).sum() == 15 * 15 + 4 * 15


def test_legacy_maps_are_smaller_than_the_mask():
    mask = touching_squares() > 0
    legacy = instance_oracle._legacy(np.pad(mask, ((480, 480), (460, 460))))
    assert legacy.shape == (1000, 1000)
    # The last step's threshold of .1 gives most of the half px on each side back.
    assert 0.85 < (legacy > 0.1).sum() / mask.sum() < 1.1
    assert (legacy > 0.99).sum() < 0.95 * mask.sum()


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "launch.instance_oracle", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )


def test_command_prints_a_table(tmp_path):
    for folder, values in (("images", np.zeros((40, 80, 3))), ("instances", touching_squares())):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / "a.png"
        skimage.io.imsave(path, values.astype(np.uint8), check_contrast=False)
    done = command(f"--data=folder:{tmp_path}")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "1 images, 3 nuclei"
    table = {line[:35].strip(): line[35:].split() for line in lines[2:]}
    assert list(table) == list(instance_oracle.found_in(touching_squares()))
    assert table["components of the mask"][2] == "66.7%"
    assert float(table["default, shape markers"][0]) > 0.9


def test_command_refuses_no_data():
    done = command()
    assert done.returncode == 2
    assert "--data is empty" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
