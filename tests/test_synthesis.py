import dataclasses

import numpy as np
import pytest
import tifffile

from histojax import runs, synthesis
from histojax.data import sources, targets
from histojax.errors import UserError
from tests import tiny


@pytest.fixture(scope="module")
def pyramid():
    """An untrained pyramid of random weights."""
    return dataclasses.replace(tiny.run("pyramid"), workdir="runs/pyramid")


def labels_of(height, width):
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 3, (-(-height // 8), -(-width // 8)), dtype=np.uint8)
    return coarse.repeat(8, 0).repeat(8, 1)[:height, :width]


def test_noise_is_a_function_of_its_place():
    field = synthesis.noise(1, 0, 100, 90, 60, 80)
    np.testing.assert_array_equal(synthesis.noise(1, 0, 120, 120, 10, 20), field[20:30, 30:50])
    assert field.dtype == np.float32
    assert field.std() == pytest.approx(1, abs=0.05)
    for other in ((2, 0), (1, 1)):
        assert not np.array_equal(synthesis.noise(*other, 100, 90, 60, 80), field)


def test_a_region_of_the_conditions_is_that_of_the_whole():
    conditions = synthesis.Conditions(labels_of(40, 33), (4, 1), seed=3)
    whole = conditions.read(0, 0, 40, 33)
    np.testing.assert_array_equal(whole[..., 0], labels_of(40, 33))
    # Coarse noise lies at every fourth px, the third first.
    coarse = whole[..., 1]
    np.testing.assert_array_equal(coarse[2::4, 2::4], synthesis.noise(3, 0, 0, 0, 10, 8))
    assert np.count_nonzero(coarse) == 80
    np.testing.assert_array_equal(whole[..., 2], synthesis.noise(3, 1, 0, 0, 40, 33))
    for y, x, height, width in ((1, 2, 7, 9), (3, 3, 1, 1), (5, 0, 35, 33), (39, 32, 1, 1)):
        part = conditions.read(y, x, height, width)
        np.testing.assert_array_equal(part, whole[y : y + height, x : x + width])


@pytest.mark.parametrize("size", [(96, 80), (33, 17)])
def test_tiles_of_any_size_agree_with_each_other(pyramid, size):
    labels = labels_of(*size)
    windows = synthesis.synthesiser(pyramid)
    one, other = (
        synthesis.synthesise(pyramid, labels, seed=0, windows=windows, tile=tile)
        for tile in (16, 96)
    )
    assert one.shape == (*size, 3)
    assert np.abs(one.astype(int) - other).max() <= 1
    assert one.std() > 1
    again = synthesis.synthesise(pyramid, labels, seed=1, windows=windows, tile=96)
    assert not np.array_equal(again, other)


def test_pairs_are_a_folder_that_can_be_trained_on(pyramid, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "load", lambda workdir: pyramid)
    (tmp_path / "m").mkdir()
    masks = [tiny.tissue(index)[1].astype(np.uint16) for index in (0, 1)]
    for index, mask in enumerate(masks):
        tifffile.imwrite(tmp_path / "m" / f"p{index}_a.tif", mask)
    written = synthesis.synthesise_files(
        tmp_path / "run", [tmp_path / "m"], tmp_path / "out", count=2
    )
    assert [path.name for path in written] == [f"p{i}_a-{n}.tif" for i in (0, 1) for n in (0, 1)]
    source = sources.open_source(f"folder:{tmp_path / 'out'}", split="all")
    assert len(source) == 4
    records = {record["name"]: record for record in (source[i] for i in range(4))}
    for index, mask in enumerate(masks):
        for copy in (0, 1):
            np.testing.assert_array_equal(records[f"p{index}_a-{copy}"]["instances"], mask)
    one, other = (records[f"p0_a-{copy}"]["hr"] for copy in (0, 1))
    assert not np.array_equal(one, other)


def test_instances_get_rims_and_classes_their_numbers(pyramid):
    mask = tiny.tissue(0)[1]
    numbers = synthesis.label_numbers(pyramid.stage, mask, name="m", contour_width=2)
    rim = targets.contours(mask, width=2) > 0
    np.testing.assert_array_equal(numbers == 2, rim & (mask > 0))
    np.testing.assert_array_equal(numbers > 0, mask > 0)


def stage_of(pyramid, form, count):
    return dataclasses.replace(
        pyramid.stage, labels=dataclasses.replace(pyramid.stage.labels, form=form, count=count)
    )


@pytest.mark.faults
@pytest.mark.parametrize(
    ("mask", "match"),
    [
        (np.zeros((8, 8), np.int32), "the mask m is empty"),
        (np.ones((1, 8), np.int32), r"the mask m has 1 x 8 px, and the lowest scale needs 2"),
        (
            np.full((8, 8), 4),
            r"the mask m has the label 4, and the pyramid knows 4 classes, 0 to 3",
        ),
        (np.full((8, 8), -1), r"4 classes, 0 to 3"),
    ],
)
def test_masks_that_cannot_be_used_are_named(pyramid, mask, match):
    stage = stage_of(pyramid, "classes", 4)
    with pytest.raises(UserError, match=match):
        synthesis.label_numbers(stage, mask, name="m", contour_width=2)


@pytest.mark.faults
def test_what_is_no_pyramid_or_no_mask_is_refused(tmp_path):
    with pytest.raises(UserError, match="is a run of stage segmentation, and tissue is synth"):
        synthesis.synthesiser(tiny.run("segmentation"))
    with pytest.raises(UserError, match=r"--masks=.*none does not exist"):
        synthesis.mask_files([tmp_path / "none"])
    (tmp_path / "a").mkdir()
    with pytest.raises(UserError, match="a folder without label images"):
        synthesis.mask_files([tmp_path / "a"])
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir(exist_ok=True)
        tifffile.imwrite(tmp_path / folder / "x.tif", np.ones((8, 8), np.uint8))
    with pytest.raises(UserError, match="two masks are called x"):
        synthesis.mask_files([tmp_path / "a", tmp_path / "b"])
