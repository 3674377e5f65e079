import numpy as np
import pytest
from absl import flags

from histojax.errors import UserError
from histojax.mosaic.stitching import Placement
from tests import tiny
from tests.launch.commands import load, loaded
from tests.mosaic import fields

cases = load("launch.mosaic_cases")


def test_a_field_that_is_not_turned_is_a_crop():
    image = fields.tissue()[:64, :64]
    np.testing.assert_allclose(cases.cut(image, 5, 7, 20, 0.0), image[5:25, 7:27], atol=1e-3)
    # Half a turn about its own middle.
    np.testing.assert_allclose(
        cases.cut(image, 5, 7, 20, 180.0), image[5:25, 7:27][::-1, ::-1], atol=1e-3
    )


def test_errors_are_after_the_best_common_motion():
    corners = np.array([0j, 100, 100j, 100 + 100j])
    # All fields turned by a degree about the corner of the first, and the last 2 px too far down.
    turn = np.exp(1j * np.deg2rad(1))
    middle = 9.5 + 9.5j
    centers = corners + middle
    places = centers * turn - middle * turn
    placed = [Placement("", 1, y=p.real, x=p.imag, angle=1.0) for p in places]
    np.testing.assert_allclose(cases.errors(placed, centers, 20), 0, atol=1e-9)
    placed[3] = Placement("", 1, y=placed[3].y + 2, x=placed[3].x, angle=1.0)
    assert cases.errors(placed, centers, 20)[3] == pytest.approx(1.5, abs=0.6)


@pytest.mark.parametrize("number", [0, 1])
def test_fields_of_tissue_are_put_back(number):
    line = cases.case([fields.tissue(0, 520), fields.tissue(1, 520)], number)
    assert line["kind"] == cases.KINDS[number]
    assert line["left_out"] == 0
    assert line["median_px"] < 1


@pytest.mark.faults
def test_one_image_is_refused(tmp_path):
    root = tiny.folder(tmp_path / "data", count=1)
    with loaded("launch.mosaic_cases") as command:
        flags.FLAGS(["mosaic_cases", f"--data=folder:{root}"])
        with pytest.raises(UserError, match="has one image"):
            command.main([])
