"""Structure and arithmetic of the rows; how long anything takes is never tested."""

import numpy as np
import pytest

from configs import joint
from histojax.config import to_values
from histojax.tissue.rendering import tissue
from launch.benchmark import inference, timing
from tests import tiny


def test_tiled_inference_of_every_network():
    values = to_values(joint.get_config("smoke"))
    rows = inference.measure_tiled(values, name="joint", size=64, repeats=2, matmul_size=16)
    assert [row["name"] for row in rows] == [
        f"joint: {task}" for task in ("enhance", "segment", "predict")
    ]
    for row in rows:
        assert row["output_size"] == 64
        assert row["megapixels_per_second"] == pytest.approx(64**2 / 1e6 / row["seconds"])
        assert row["images_per_second"] == pytest.approx(1 / row["seconds"])
    # One window is all there is, of the generator's pixels and of the segmenter's.
    assert rows[2]["model_flop"] > rows[0]["model_flop"] > 0
    assert [row["core"] for row in rows[:2]] == [16, 64]


def test_slide_repeats_one_patch_and_ends_at_its_size():
    strips = list(inference.repeated(tissue(0, 0, 512)["image"], 700))
    assert [strip.shape for strip in strips] == [(512, 700, 3), (188, 700, 3)]
    slide = np.concatenate(strips)
    np.testing.assert_array_equal(slide[512:, 512:], slide[:188, :188])
    assert slide.std() > 5


def test_streaming_goes_from_file_to_files():
    (row,) = inference.measure_streaming(size=40, tile=64)
    assert row["output_size"] == 160
    assert row["nuclei"] >= 0
    assert row["peak_bytes"] > 160 * 160 * 3


def test_borders_of_tiles_show_where_they_differ():
    image = np.zeros((32, 48, 3), np.uint8)
    image[:, 1::2] = 10  # neighbours in a row differ by 10 everywhere, in a column by 0
    ratio = inference.border_ratio(image, 16)
    assert ratio == pytest.approx((2 * 10 / 3) / (45 * 10 / 75))
    # Every other line across columns has a step; borders lie on such lines alone.
    steps = np.zeros((32, 32, 3), np.uint8)
    steps[:, 2::4], steps[:, 3::4] = 10, 10
    steps += steps.transpose(1, 0, 2)
    assert inference.border_ratio(steps, 16) > 1.5
    assert inference.border_ratio(steps, 16, 4) == pytest.approx(1)
    image[16:] += 40
    ratio = inference.border_ratio(image, 16)
    assert ratio == pytest.approx(((2 * 10 + 40) / 3) / (45 * 10 / 75))


def test_synthesis_goes_from_file_to_files(monkeypatch):
    monkeypatch.setattr(inference, "untrained_run", lambda config: tiny.run("pyramid"))
    (row,) = inference.measure_synthesis(size=100, tile=32, workdir="")
    assert (row["size"], row["tile"]) == (100, 28)  # four tiles a side
    assert row["nuclei"] > 3
    assert row["peak_bytes"] > 100 * 100 * 3
    assert 0.5 < row["border_ratio"] < 2


def test_maps_repeat_one_patch_and_end_at_their_size():
    maps = inference.maps_of(700)
    for values in maps.values():
        assert values.shape == (700, 700)
        assert values.dtype == np.float32
        assert 0 <= values.min() <= values.max() <= 1
        np.testing.assert_array_equal(values[512:, 512:], values[:188, :188])


def test_flooding_all_of_the_mask_finds_the_same_nuclei():
    (own,), (whole,) = (
        inference.measure_postprocessing(size=400, whole=whole) for whole in (False, True)
    )
    assert own["labels_crc32"] == whole["labels_crc32"]
    assert own["nuclei"] == whole["nuclei"] > 20


def test_nuclei_of_a_field_are_written_side_by_side(monkeypatch):
    monkeypatch.setattr(timing, "apart", lambda function, **options: function(**options))
    (row,) = inference.measure_geojson(count=30, side=128)
    assert row["nuclei"] >= 30
    assert row["file_bytes"] > 30 * 50
    assert row["peak_bytes"] >= row["before_bytes"] > 0


def test_squares_are_a_lattice_of_nuclei():
    truth = inference.squares(60, 4)
    np.testing.assert_array_equal(np.unique(truth), np.arange(17))
    # A pitch of 15 px leaves 11 px of nucleus: 11^2 of 15^2.
    assert np.mean(truth > 0) == pytest.approx(11**2 / 15**2)


def test_instances_are_scored_by_table_and_loops():
    rows = inference.measure_instances(size=60, across=4, repeats=1, loops=True)
    assert [(row["name"], row["nuclei"]) for row in rows] == [("table, in use", 16), ("loops", 16)]
    assert len(inference.measure_instances(size=60, across=4, repeats=1, loops=False)) == 1
