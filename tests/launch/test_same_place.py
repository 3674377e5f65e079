import csv

import numpy as np
import pytest
from absl import flags
from PIL import Image

from histojax.errors import UserError
from histojax.inference.arrays import Arrays
from histojax.mosaic.placement import Link
from tests.launch.commands import load, loaded
from tests.mosaic import fields

same_place = load("launch.same_place")


def link(shift, angle=0.0):
    nothing = np.zeros(4, complex)
    return Link(0, 1, shift, angle, 9.0, 1.0, 0.5, (nothing, nothing))


def test_pixels_are_found_in_the_second_field():
    # Of 9 x 9 and 5 x 5 px, whose middle lies 1 px below and 2 px right of the first's.
    points = same_place.points_in_second(link(1 + 2j), (9, 9), (5, 5))
    assert points.shape == (9, 9)
    assert points[5, 6] == 2 + 2j
    assert points[3, 4] == 0
    # The first's angle to the second: a quarter turn moves a row of the second to a column.
    turned = same_place.points_in_second(link(0, np.pi / 2), (5, 5), (5, 5))
    np.testing.assert_allclose(turned[2 + 1, 2], 2 + 1j, atol=1e-12)
    inside = same_place.inner(points, (5, 5), 1)
    assert inside.sum() == 9
    assert inside[4:7, 5:8].all()


def test_the_same_nuclei_are_the_same_and_cut_ones_do_not_count():
    whole = np.zeros((60, 100), np.int32)
    whole[10:20, 30:40], whole[30:40, 55:65], whole[40:50, 76:90] = 1, 2, 3
    image = np.random.default_rng(0).integers(0, 256, (60, 100, 3), dtype=np.uint8)
    parts = [np.s_[:, :80], np.s_[:, 20:]]
    made = [Arrays(None, whole[part].copy(), {}, None, "") for part in parts]
    images = [image[part] for part in parts]
    line = same_place.compared(link(20j), images, made, 2)
    # The third is cut by the border of the first field.
    assert line == {"overlap": 0.653, "nuclei": 2.0, "f1": 1.0, "aji": 1.0}
    # One of the two 5 px lower in the second: 50 of 150 px are common.
    made[1].labels[10:20, 10:20] = 0
    made[1].labels[15:25, 10:20] = 1
    line = same_place.compared(link(20j), images, made, 2)
    assert line["f1"] == 0.5
    assert line["aji"] == pytest.approx((50 + 100) / (150 + 100), abs=1e-4)
    assert same_place.compared(link(78j), images, made, 2) is None


def run(folder, output, model):
    with loaded("launch.same_place") as command:
        flags.FLAGS(["same_place", f"--model={model}", f"--input={folder}", f"--output={output}"])
        command.main([])
    with open(output / "same_place.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_the_command_compares_every_linked_pair(trained_chain, tmp_path):
    shown, _ = fields.grid(fields.tissue(), 1, 3, 160, 80)
    folder = tmp_path / "in"
    folder.mkdir()
    for number, one in enumerate(shown):
        Image.fromarray(one).save(folder / f"t{number}.png")
    rows = run(folder, tmp_path / "out", trained_chain)
    pairs = {frozenset((row["first"], row["second"])) for row in rows}
    assert pairs >= {frozenset(("t0.png", "t1.png")), frozenset(("t1.png", "t2.png"))}
    for row in rows:
        # The fields show the same pixels, so only what is found between pixels differs.
        assert float(row["overlap"]) == pytest.approx((80 - 32) * 128 / 160**2, abs=0.02)
        assert float(row["psnr_enhanced"]) > 35
        assert float(row["psnr_bicubic"]) > 35


@pytest.mark.faults
def test_fields_that_do_not_match_are_refused(trained_chain, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(2):
        Image.fromarray(fields.tissue(number)[:160, :160]).save(folder / f"t{number}.png")
    with pytest.raises(UserError, match=r"no two fields of --input=.* match"):
        run(folder, tmp_path / "out", trained_chain)
