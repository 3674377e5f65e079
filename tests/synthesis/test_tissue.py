import dataclasses

import numpy as np
import pytest

from histojax.components import palette
from histojax.errors import UserError
from histojax.imaging import tiling
from histojax.nuclei import targets
from histojax.runs import workdirs
from histojax.stages import build_stage
from histojax.synthesis import tissue
from histojax.synthesis.tissue import Synthesizer
from histojax.tissue import rendering
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
    field = tissue.noise((1,), 0, 100, 90, 60, 80)
    np.testing.assert_array_equal(tissue.noise((1,), 0, 120, 120, 10, 20), field[20:30, 30:50])
    assert field.dtype == np.float32
    assert field.std() == pytest.approx(1, abs=0.05)
    for other in (((2,), 0), ((1,), 1), ((1, 0), 0)):
        assert not np.array_equal(tissue.noise(*other, 100, 90, 60, 80), field)


def test_a_region_of_the_conditions_is_that_of_the_whole():
    conditions = tissue.Conditions(labels_of(40, 33), (4, 1), seed=(3,))
    whole = conditions.read(0, 0, 40, 33)
    np.testing.assert_array_equal(whole[..., 0], labels_of(40, 33))
    # A px of coarse noise fills four by four.
    coarse = tissue.noise((3,), 0, 0, 0, 10, 9)
    np.testing.assert_array_equal(whole[..., 1], coarse.repeat(4, 0).repeat(4, 1)[:, :33])
    np.testing.assert_array_equal(whole[..., 2], tissue.noise((3,), 1, 0, 0, 40, 33))
    for y, x, height, width in ((1, 2, 7, 9), (3, 3, 1, 1), (5, 0, 35, 33), (39, 32, 1, 1)):
        part = conditions.read(y, x, height, width)
        np.testing.assert_array_equal(part, whole[y : y + height, x : x + width])


@pytest.mark.parametrize("side", [96, 99])
def test_noise_is_there_in_the_mirrored_border_too(side):
    factors = (8, 4, 3, 2, 1)
    conditions = tissue.Conditions(np.zeros((side, side), np.uint8), factors, seed=(0,))
    for y in (-48, side):
        window = tiling.read_window(conditions, y, -48, 48, 96)
        for k, f in enumerate(factors):
            assert window[f // 2 :: f, f // 2 :: f, 1 + k].std() > 0.5


def images_in_tiles(synthesizer, mask):
    """The same image in tiles of 16 and of 96 px."""
    for synthesizer.tile in (16, 96):
        yield synthesizer.image(mask, seed=(0,))


@pytest.mark.parametrize("size", [(96, 80), (33, 40)])
def test_tiles_of_any_size_agree_with_each_other(pyramid, size):
    mask = labels_of(*size)
    synthesizer = Synthesizer(pyramid)
    one, other = images_in_tiles(synthesizer, mask)
    assert one.shape == (*size, 3)
    assert np.abs(one.astype(int) - other).max() <= 1
    assert one.std() > 1
    again = synthesizer.image(mask, seed=(1,))
    assert not np.array_equal(again, other)


def test_an_image_has_the_colors_of_one_training_image(pyramid):
    dark, light = [[0.1] * 3] * 3, [[0.9] * 3] * 3
    run = dataclasses.replace(pyramid, meta={**pyramid.meta, "palette": [dark, light]})
    means = {}
    for seed in range(6):
        color = float(palette.draw([dark, light], 3, [0, 1, 2], (seed,))[0, 0])
        image = Synthesizer(run).image(labels_of(32, 32), seed=(seed,))
        means.setdefault(round(color, 3), []).append(image.mean())
    assert set(means) == {0.1, 0.9}
    assert max(means[0.1]) < min(means[0.9])


def of_tissue(pyramid, *, silent):
    """The pyramid, starting from tissue; where it is silent, its generators add nothing."""
    looks = [[[0.9, 0.8, 0.9], [0.4, 0.2, 0.5], [0.3, 0.1, 0.4]]]
    config = tiny.config("pyramid")
    config.pyramid.base = "tissue"
    stage = build_stage(config, {})
    # Untrained, they add nothing.
    state = workdirs.fresh_state(stage, config) if silent else pyramid.state
    meta = {**pyramid.meta, "palette": looks}
    return dataclasses.replace(pyramid, stage=stage, state=state, meta=meta)


def test_what_adds_nothing_gives_the_tissue_in_the_colors_drawn(pyramid):
    run = of_tissue(pyramid, silent=True)
    mask = tiny.tissue(0)[1]
    synthesizer = Synthesizer(run)
    numbers = synthesizer.labels_of(mask)
    seed = (3, 1)
    image = synthesizer.image(mask, seed=seed)
    number = int(np.random.SeedSequence(seed).generate_state(1)[0])
    drawn = rendering.tissue_of(mask, 0, number)
    colors = palette.draw(run.meta["palette"], 3, [0, 1, 2], seed)
    nucleus = (numbers > 0).astype(np.uint8)
    two = np.stack([colors[0], colors[numbers[numbers > 0]].mean(0)])
    wanted = palette.recolored(drawn, nucleus, two)
    assert np.abs(image.astype(int) - wanted).max() <= 1
    for label, color in enumerate(two):
        assert image[nucleus == label].mean(0) == pytest.approx(255 * color, abs=4)
    other = synthesizer.image(mask, seed=(4,), look=seed)
    assert not np.array_equal(other, image)
    # Without colours the tissue keeps its own.
    plain = dataclasses.replace(run, meta={**run.meta, "palette": []})
    image = Synthesizer(plain).image(mask, seed=seed)
    assert np.abs(image.astype(int) - drawn).max() <= 1


def test_tiles_that_start_from_tissue_agree_with_each_other(pyramid):
    run = of_tissue(pyramid, silent=False)
    mask = tiny.tissue(0)[1]
    one, other = images_in_tiles(Synthesizer(run), mask)
    assert np.abs(one.astype(int) - other).max() <= 1


def test_instances_get_rims_and_classes_their_numbers(pyramid):
    mask = tiny.tissue(0)[1]
    numbers = Synthesizer(pyramid).labels_of(mask)
    rim = targets.contours(mask, width=2) > 0
    np.testing.assert_array_equal(numbers == 2, rim & (mask > 0))
    np.testing.assert_array_equal(numbers > 0, mask > 0)


def stage_of(pyramid, kind, count):
    return dataclasses.replace(
        pyramid.stage, labels=dataclasses.replace(pyramid.stage.labels, kind=kind, count=count)
    )


@pytest.mark.faults
@pytest.mark.parametrize(
    ("mask", "match"),
    [
        (np.zeros((32, 32), np.int32), "the mask m is empty"),
        (
            np.ones((31, 40), np.int32),
            r"the mask m has 31 x 40 px, and the pyramid is trained on 32",
        ),
        (
            np.full((32, 32), 4),
            r"the mask m has the label 4, and the pyramid knows 4 classes, 0 to",
        ),
        (np.full((32, 32), -1), r"4 classes, 0 to 3"),
    ],
)
def test_masks_that_cannot_be_used_are_named(pyramid, mask, match):
    meta = {**pyramid.meta, "classes": list("abcd")}
    run = dataclasses.replace(pyramid, stage=stage_of(pyramid, "classes", 4), meta=meta)
    with pytest.raises(UserError, match=match):
        Synthesizer(run).check(mask, name="m")


@pytest.mark.faults
def test_a_mask_with_one_label_for_all_nuclei_is_refused(pyramid):
    mask = np.zeros((32, 32), np.uint8)
    mask[2:8, 2:8] = mask[20:28, 20:28] = 255
    with pytest.raises(UserError, match="has one label for several nuclei"):
        Synthesizer(pyramid).check(mask, name="m")


@pytest.mark.faults
def test_a_lower_scale_is_not_synthesized_from(pyramid):
    stage = dataclasses.replace(pyramid.stage, crop=64)
    with pytest.raises(UserError, match="name the run of the highest scale"):
        Synthesizer(dataclasses.replace(pyramid, stage=stage))


@pytest.mark.faults
def test_what_is_no_pyramid_is_refused():
    with pytest.raises(UserError, match="is a run of stage segmentation, and tissue is synth"):
        Synthesizer(tiny.run("segmentation"))
