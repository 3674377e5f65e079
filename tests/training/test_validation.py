import numpy as np
import pytest

from histojax.data.sources import specs
from histojax.training import sharding, validation
from tests import tiny


def built(tmp_path, *, size, crop, crops):
    config = tiny.config("segmentation")
    config.eval.update(crop=crop, crops=crops)
    stage, state, _ = tiny.built("segmentation", config)
    source = specs.open_source(
        f"folder:{tiny.folder(tmp_path / 'data', size=size)}", split="val", require_labels=True
    )
    mesh = sharding.data_mesh()
    return validation.Validation(stage, source, config, mesh, tmp_path / "run"), state


def crops_of(watch):
    batches = watch._batches
    return np.concatenate([batch["hr"][batch["weight"] > 0] for batch in batches])


def test_a_crop_larger_than_the_image_is_cut_to_it(tmp_path):
    # 50 px hold 48, a multiple of the scale 4 and of the network's stride 2; one crop covers 48.
    watch, state = built(tmp_path, size=50, crop=96, crops=9)
    found = crops_of(watch)
    assert found.shape == (4, 48, 48, 3)
    values = watch(state, 3)
    assert 0 <= values["dice_pooled"] <= 1
    assert (tmp_path / "run" / "samples" / "step_0000003.png").is_file()


def test_no_more_crops_are_taken_than_cover_an_image(tmp_path):
    # Two across cover 64 px by crops of 32, whatever is asked for; all four are different.
    watch, _ = built(tmp_path, size=64, crop=32, crops=100)
    found = crops_of(watch)
    assert found.shape == (4, 32, 32, 3)
    assert len({crop.tobytes() for crop in found}) == 4


def test_as_many_crops_are_taken_as_asked_for(tmp_path):
    watch, _ = built(tmp_path, size=64, crop=16, crops=9)
    assert crops_of(watch).shape == (9, 16, 16, 3)


@pytest.mark.parametrize(
    ("crop", "side", "step", "fits"),
    [
        (128, 1000, 4, 128),
        (128, 128, 16, 128),
        (128, 100, 16, 96),
        (128, 10, 16, 16),
        (256, 1000, 48, 240),
        (256, 1000, 3, 255),
    ],
)
def test_the_crop_that_fits(crop, side, step, fits):
    assert validation.fitting_crop(crop, side, step=step) == fits


@pytest.mark.parametrize(
    ("sense", "expected"),
    [("max", [True, False, False, True]), ("min", [True, False, True, False])],
)
def test_better_goes_by_the_sense_and_skips_what_is_not_finite(sense, expected):
    best, found = None, []
    for value in (1.0, float("nan"), 0.5, 2.0):
        found.append(validation.better(sense, value, best))
        best = value if found[-1] else best
    assert found == expected
    assert validation.better(sense, 1.0, 1.0) == (sense == "min")
