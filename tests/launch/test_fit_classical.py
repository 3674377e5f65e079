import numpy as np
import pytest
from absl import flags

from histojax.errors import UserError
from histojax.nuclei import classical
from tests import tiny
from tests.launch.commands import load, loaded
from tests.nuclei.test_classical import field

fit = load("launch.fit_classical").fit


def test_the_fit_finds_what_the_truth_has():
    # The truth that leaves the small disks out asks for another smallest area.
    image, inside = field(disks=((20, 20, 14), (60, 65, 5), (70, 25, 5)))
    y, x = np.mgrid[:96, :96]
    every = np.where(inside, 1 + (y > 40) + ((y > 40) & (x > 45)), 0).astype(np.int32)
    large = np.where(every == 1, every, 0)
    fitted, score = fit([(image, large)], 0.25)
    again, more = fit([(image, every)])
    assert classical.find(image, fitted).max() == 1
    assert classical.find(image, again).max() == 3
    assert min(score, more) > 0.85
    assert (fitted.mpp, again.mpp) == (0.25, None)


@pytest.mark.faults
def test_masks_alone_are_refused(tmp_path):
    root = tiny.folder(tmp_path / "data")
    (root / "instances").rename(root / "masks")
    for path in (root / "masks").iterdir():
        tiny.Image.fromarray((np.asarray(tiny.Image.open(path)) > 0).astype(np.uint8)).save(path)
    with loaded("launch.fit_classical") as command:
        flags.FLAGS(["fit", f"--data=folder:{root}"])
        with pytest.raises(UserError, match="masks alone"):
            command.main([])
