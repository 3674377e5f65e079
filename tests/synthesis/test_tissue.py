import dataclasses
import re
import subprocess
import sys
import zlib

import numpy as np
import pytest
import tifffile

from histojax.components import palette
from histojax.data.sources import specs as sources
from histojax.errors import UserError
from histojax.imaging import tiling, writers
from histojax.nuclei import targets
from histojax.runs import workdirs
from histojax.stages import build_stage
from histojax.synthesis import painter
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
    field = painter.noise((1,), 0, 100, 90, 60, 80)
    np.testing.assert_array_equal(painter.noise((1,), 0, 120, 120, 10, 20), field[20:30, 30:50])
    assert field.dtype == np.float32
    assert field.std() == pytest.approx(1, abs=0.05)
    for other in (((2,), 0), ((1,), 1), ((1, 0), 0)):
        assert not np.array_equal(painter.noise(*other, 100, 90, 60, 80), field)


def test_a_region_of_the_conditions_is_that_of_the_whole():
    conditions = painter.Conditions(labels_of(40, 33), (4, 1), seed=(3,))
    whole = conditions.read(0, 0, 40, 33)
    np.testing.assert_array_equal(whole[..., 0], labels_of(40, 33))
    # A px of coarse noise fills four by four.
    coarse = painter.noise((3,), 0, 0, 0, 10, 9)
    np.testing.assert_array_equal(whole[..., 1], coarse.repeat(4, 0).repeat(4, 1)[:, :33])
    np.testing.assert_array_equal(whole[..., 2], painter.noise((3,), 1, 0, 0, 40, 33))
    for y, x, height, width in ((1, 2, 7, 9), (3, 3, 1, 1), (5, 0, 35, 33), (39, 32, 1, 1)):
        part = conditions.read(y, x, height, width)
        np.testing.assert_array_equal(part, whole[y : y + height, x : x + width])


@pytest.mark.parametrize("side", [96, 99])
def test_noise_is_there_in_the_mirrored_border_too(side):
    factors = (8, 4, 3, 2, 1)
    conditions = painter.Conditions(np.zeros((side, side), np.uint8), factors, seed=(0,))
    for y in (-48, side):
        window = tiling.read_window(conditions, y, -48, 48, 96)
        for k, f in enumerate(factors):
            assert window[f // 2 :: f, f // 2 :: f, 1 + k].std() > 0.5


@pytest.mark.parametrize("size", [(96, 80), (33, 40)])
def test_tiles_of_any_size_agree_with_each_other(pyramid, size):
    labels = labels_of(*size)
    windows = painter.synthesizer(pyramid)
    one, other = (
        painter.synthesize(pyramid, labels, labels, seed=(0,), windows=windows, tile=tile)
        for tile in (16, 96)
    )
    assert one.shape == (*size, 3)
    assert np.abs(one.astype(int) - other).max() <= 1
    assert one.std() > 1
    again = painter.synthesize(pyramid, labels, labels, seed=(1,), windows=windows, tile=96)
    assert not np.array_equal(again, other)


def test_an_image_has_the_colors_of_one_training_image(pyramid):
    dark, light = [[0.1] * 3] * 3, [[0.9] * 3] * 3
    run = dataclasses.replace(pyramid, meta={**pyramid.meta, "palette": [dark, light]})
    means = {}
    for seed in range(6):
        color = float(palette.draw([dark, light], 3, [0, 1, 2], (seed,))[0, 0])
        labels = labels_of(32, 32)
        image = painter.synthesize(run, labels, labels, seed=(seed,))
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
    numbers = painter.numbers_of(run.stage, mask, contour_width=2)
    seed = (3, 1)
    image = painter.synthesize(run, numbers, mask, seed=seed)
    number = int(np.random.SeedSequence(seed).generate_state(1)[0])
    drawn = rendering.tissue_of(mask, 0, number, patches_per_patient=1)
    colors = palette.draw(run.meta["palette"], 3, [0, 1, 2], seed)
    nucleus = (numbers > 0).astype(np.uint8)
    two = np.stack([colors[0], colors[numbers[numbers > 0]].mean(0)])
    wanted = palette.recolored(drawn, nucleus, two)
    assert np.abs(image.astype(int) - wanted).max() <= 1
    for label, color in enumerate(two):
        assert image[nucleus == label].mean(0) == pytest.approx(255 * color, abs=4)
    other = painter.synthesize(run, numbers, mask, seed=(4,), look=seed)
    assert not np.array_equal(other, image)
    own = painter.with_looks(run, [painter.OWN])
    image = painter.synthesize(own, numbers, mask, seed=seed)
    assert np.abs(image.astype(int) - drawn).max() <= 1


def test_tiles_that_start_from_tissue_agree_with_each_other(pyramid):
    run = of_tissue(pyramid, silent=False)
    mask = tiny.tissue(0)[1]
    numbers = painter.numbers_of(run.stage, mask, contour_width=2)
    windows = painter.synthesizer(run)
    one, other = (
        painter.synthesize(run, numbers, mask, seed=(0,), windows=windows, tile=tile)
        for tile in (16, 96)
    )
    assert np.abs(one.astype(int) - other).max() <= 1


def folder_of(place, color):
    """A labelled image in one colour and its complement."""
    mask = tiny.tissue(0)[1]
    image = np.where(mask[..., None] > 0, np.uint8(color), np.uint8(255 - color))
    for kind, array in (("images", image.repeat(3, -1)), ("instances", mask.astype(np.uint16))):
        (place / kind).mkdir(parents=True)
        tifffile.imwrite(place / kind / "p_a.tif", array)
    return f"folder:{place}"


def test_colors_are_of_the_images_that_are_named(pyramid, tmp_path, monkeypatch):
    own = [[0.2] * 3] * 3
    run = dataclasses.replace(pyramid, meta={**pyramid.meta, "palette": [own]})
    dark, light = folder_of(tmp_path / "dark", 51), folder_of(tmp_path / "light", 204)
    found = painter.with_looks(run, [dark]).meta["palette"]
    # Four windows of one image; what is no nucleus has the complement.
    assert len(found) == 4
    for background, *nuclei in found:
        assert background == pytest.approx([0.8] * 3, abs=1e-4)
        for color in nuclei:
            assert color is None or color == pytest.approx([0.2] * 3, abs=1e-4)
    both = painter.with_looks(run, [painter.TRAINING, dark, light]).meta["palette"]
    assert both[:5] == [own, *found]
    assert len(both) == 9
    assert both[5][0] == pytest.approx([0.2] * 3, abs=1e-4)
    assert run.meta["palette"] == [own]
    # Images follow.
    monkeypatch.setattr(workdirs, "load", lambda workdir: run)
    (tmp_path / "m").mkdir()
    tifffile.imwrite(tmp_path / "m" / "a.tif", tiny.tissue(1)[1].astype(np.uint16))
    for name, looks in (("one", [dark]), ("other", [light])):
        output = tmp_path / name
        painter.synthesize_files(tmp_path / "run", [tmp_path / "m"], output, looks=looks)
    one, other = (tifffile.imread(tmp_path / n / "images" / "a.tif") for n in ("one", "other"))
    nuclei = tiny.tissue(1)[1] > 0
    assert one[nuclei].mean() < other[nuclei].mean()


@pytest.mark.faults
def test_colors_that_cannot_be_drawn_are_refused(pyramid, tmp_path):
    gray = dataclasses.replace(pyramid, stage=dataclasses.replace(pyramid.stage, base="gray"))
    with pytest.raises(UserError, match=r"starts from grey and has no use for --looks=training"):
        painter.with_looks(gray, ["training"])
    with pytest.raises(UserError, match="nowhere"):
        painter.with_looks(pyramid, [f"folder:{tmp_path / 'nowhere'}"])
    of_it = of_tissue(pyramid, silent=True)
    for run, specs in ((pyramid, ["own"]), (of_it, ["own", "training"])):
        with pytest.raises(UserError, match=r"--looks=own has the tissue that .* name it alone"):
            painter.with_looks(run, specs)
    config = pyramid.config.copy_and_resolve_references()
    config.pyramid.classes = 4
    other = dataclasses.replace(pyramid, stage=stage_of(pyramid, "classes", 4), config=config)
    with pytest.raises(UserError, match=r"--looks=folder:.* has 2 classes, background, nucleus"):
        painter.with_looks(other, [folder_of(tmp_path / "two", 51)])


def test_pairs_are_a_folder_that_can_be_trained_on(pyramid, tmp_path, monkeypatch):
    monkeypatch.setattr(workdirs, "load", lambda workdir: pyramid)
    (tmp_path / "m").mkdir()
    masks = [tiny.tissue(index)[1].astype(np.uint16) for index in (0, 1)]
    for index, mask in enumerate(masks):
        tifffile.imwrite(tmp_path / "m" / f"p{index}_a.tif", mask)
    written = painter.synthesize_files(
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
    with pytest.raises(UserError, match=r"--output=.*out is not empty"):
        painter.synthesize_files(tmp_path / "run", [tmp_path / "m"], tmp_path / "out")


def test_masks_of_two_names_get_noise_of_their_own(pyramid, tmp_path, monkeypatch):
    monkeypatch.setattr(workdirs, "load", lambda workdir: pyramid)
    (tmp_path / "m").mkdir()
    for name in ("a", "b"):
        tifffile.imwrite(tmp_path / "m" / f"{name}.tif", tiny.tissue(0)[1].astype(np.uint16))
    painter.synthesize_files(tmp_path / "run", [tmp_path / "m"], tmp_path / "out")
    one, other = (tifffile.imread(tmp_path / "out" / "images" / f"{n}.tif") for n in "ab")
    assert not np.array_equal(one, other)


def test_instances_get_rims_and_classes_their_numbers(pyramid):
    mask = tiny.tissue(0)[1]
    numbers = painter.label_numbers(pyramid.stage, mask, name="m", contour_width=2)
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
    stage = stage_of(pyramid, "classes", 4)
    with pytest.raises(UserError, match=match):
        painter.label_numbers(stage, mask, name="m", contour_width=2)


@pytest.mark.faults
def test_a_mask_with_one_label_for_all_nuclei_is_refused(pyramid):
    mask = np.zeros((32, 32), np.uint8)
    mask[2:8, 2:8] = mask[20:28, 20:28] = 255
    with pytest.raises(UserError, match="has one label for several nuclei"):
        painter.label_numbers(pyramid.stage, mask, name="m", contour_width=2)


@pytest.mark.faults
def test_a_lower_scale_is_not_synthesized_from(pyramid):
    stage = dataclasses.replace(pyramid.stage, crop=64)
    with pytest.raises(UserError, match="name the run of the highest scale"):
        painter.synthesizer(dataclasses.replace(pyramid, stage=stage))


@pytest.mark.faults
def test_what_is_no_pyramid_or_no_mask_is_refused(tmp_path):
    with pytest.raises(UserError, match="is a run of stage segmentation, and tissue is synth"):
        painter.synthesizer(tiny.run("segmentation"))
    with pytest.raises(UserError, match=r"--masks=.*none does not exist"):
        painter.mask_files([tmp_path / "none"])
    (tmp_path / "a").mkdir()
    with pytest.raises(UserError, match="a folder without label images"):
        painter.mask_files([tmp_path / "a"])
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir(exist_ok=True)
        tifffile.imwrite(tmp_path / folder / "x.tif", np.ones((8, 8), np.uint8))
    with pytest.raises(UserError, match="two masks are called x"):
        painter.mask_files([tmp_path / "a", tmp_path / "b"])


def test_tissue_is_drawn_for_masks_without_a_pyramid(tmp_path):
    (tmp_path / "m").mkdir()
    masks = [tiny.tissue(index)[1][:40].astype(np.uint16) for index in (0, 1)]
    for index, mask in enumerate(masks):
        tifffile.imwrite(tmp_path / "m" / f"p{index}.tif", mask)
    output = tmp_path / "out"
    written = painter.draw_files([tmp_path / "m"], output, seed=3, count=2)
    assert [path.name for path in written] == [f"p{i}-{n}.tif" for i in (0, 1) for n in (0, 1)]
    source = sources.open_source(f"folder:{output}", split="all", require_labels=True)
    assert source.mpp is None
    records = {record["name"]: record for record in (source[i] for i in range(4))}
    for index, mask in enumerate(masks):
        for copy in (0, 1):
            np.testing.assert_array_equal(records[f"p{index}-{copy}"]["instances"], mask)
    wanted = painter.drawn(masks[1].astype(np.int32), (3, zlib.crc32(b"p1"), 0))
    np.testing.assert_array_equal(records["p1-0"]["hr"], wanted)
    assert not np.array_equal(records["p1-0"]["hr"], records["p1-1"]["hr"])
    with pytest.raises(UserError, match=r"--output=.*out is not empty"):
        painter.draw_files([tmp_path / "m"], output)
    # The px size is that of the masks, where they tell it.
    for name in "ab":
        place = tmp_path / "scaled" / f"{name}.tif"
        writers.stream_tiff(place, [masks[0].astype(np.uint32)], height=40, width=64, mpp=0.5)
    painter.draw_files([tmp_path / "scaled"], tmp_path / "half")
    assert sources.open_source(f"folder:{tmp_path / 'half'}", split="all").mpp == 0.5


@pytest.mark.faults
@pytest.mark.parametrize(
    ("mask", "match"),
    [
        (np.zeros((32, 32), np.uint8), "is empty: give one with nuclei"),
        (np.eye(4, dtype=np.uint8)[::2].repeat(8, 0).repeat(8, 1), "has one label for several nuc"),
        (np.ones((8, 40), np.uint8), "has 8 x 40 px, and tissue is drawn from 16 px on each side"),
        (
            np.ones((16, 8193), np.uint8),
            "has 16 x 8193 px, and the built-in model.s tissue is drawn as a whole",
        ),
    ],
)
def test_masks_that_tissue_cannot_be_drawn_for_are_named(tmp_path, mask, match):
    tifffile.imwrite(tmp_path / "m.tif", mask)
    with pytest.raises(UserError, match=rf"the mask .*m\.tif {match}"):
        painter.draw_files([tmp_path / "m.tif"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.faults
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], r"by --workdir=RUN, a pyramid, or by --builtin: give one of the two"),
        (["--builtin", "--workdir=w"], r"give one of the two"),
        (["--builtin", "--looks=training"], r"--looks=training is for a pyramid"),
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
