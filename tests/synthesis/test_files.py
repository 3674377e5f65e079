import dataclasses
import zlib

import numpy as np
import pytest
import tifffile

from histojax.data.sources import specs as sources
from histojax.errors import UserError
from histojax.imaging import writers
from histojax.synthesis import builtin, files
from histojax.synthesis.tissue import Synthesizer
from tests import tiny


@pytest.fixture(scope="module")
def pyramid():
    """An untrained pyramid of random weights."""
    return dataclasses.replace(tiny.run("pyramid"), workdir="runs/pyramid")


def test_pairs_are_a_folder_that_can_be_trained_on(pyramid, tmp_path):
    (tmp_path / "m").mkdir()
    masks = [tiny.tissue(index)[1].astype(np.uint16) for index in (0, 1)]
    for index, mask in enumerate(masks):
        tifffile.imwrite(tmp_path / "m" / f"p{index}_a.tif", mask)
    maker, paths = Synthesizer(pyramid), files.mask_files([tmp_path / "m"])
    written = files.write_pairs(maker, paths, tmp_path / "out", count=2)
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
        files.write_pairs(maker, paths, tmp_path / "out")


def test_masks_of_two_names_get_noise_of_their_own(pyramid, tmp_path):
    (tmp_path / "m").mkdir()
    for name in ("a", "b"):
        tifffile.imwrite(tmp_path / "m" / f"{name}.tif", tiny.tissue(0)[1].astype(np.uint16))
    paths = files.mask_files([tmp_path / "m"])
    files.write_pairs(Synthesizer(pyramid), paths, tmp_path / "out")
    one, other = (tifffile.imread(tmp_path / "out" / "images" / f"{n}.tif") for n in "ab")
    assert not np.array_equal(one, other)


@pytest.mark.faults
def test_what_is_no_mask_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"--masks=.*none does not exist"):
        files.mask_files([tmp_path / "none"])
    (tmp_path / "a").mkdir()
    with pytest.raises(UserError, match="a folder without label images"):
        files.mask_files([tmp_path / "a"])
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir(exist_ok=True)
        tifffile.imwrite(tmp_path / folder / "x.tif", np.ones((8, 8), np.uint8))
    with pytest.raises(UserError, match="two masks are called x"):
        files.mask_files([tmp_path / "a", tmp_path / "b"])


def test_tissue_is_drawn_for_masks_without_a_pyramid(tmp_path):
    (tmp_path / "m").mkdir()
    masks = [tiny.tissue(index)[1][:40].astype(np.uint16) for index in (0, 1)]
    for index, mask in enumerate(masks):
        tifffile.imwrite(tmp_path / "m" / f"p{index}.tif", mask)
    output = tmp_path / "out"
    maker, paths = builtin.BuiltinTissue(None), files.mask_files([tmp_path / "m"])
    written = files.write_pairs(maker, paths, output, seed=3, count=2)
    assert [path.name for path in written] == [f"p{i}-{n}.tif" for i in (0, 1) for n in (0, 1)]
    source = sources.open_source(f"folder:{output}", split="all", require_labels=True)
    assert source.mpp is None
    records = {record["name"]: record for record in (source[i] for i in range(4))}
    for index, mask in enumerate(masks):
        for copy in (0, 1):
            np.testing.assert_array_equal(records[f"p{index}-{copy}"]["instances"], mask)
    wanted = builtin.draw(masks[1].astype(np.int32), (3, zlib.crc32(b"p1"), 0))
    np.testing.assert_array_equal(records["p1-0"]["hr"], wanted)
    assert not np.array_equal(records["p1-0"]["hr"], records["p1-1"]["hr"])
    with pytest.raises(UserError, match=r"--output=.*out is not empty"):
        files.write_pairs(maker, paths, output)
    # The px size is that of the masks, where they tell it.
    for name in "ab":
        place = tmp_path / "scaled" / f"{name}.tif"
        writers.stream_tiff(place, [masks[0].astype(np.uint32)], height=40, width=64, mpp=0.5)
    paths = files.mask_files([tmp_path / "scaled"])
    maker = builtin.BuiltinTissue(files.common_mpp(paths))
    files.write_pairs(maker, paths, tmp_path / "half")
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
            "has 16 x 8193 px, and the built-in model draws a whole square",
        ),
    ],
)
def test_masks_that_tissue_cannot_be_drawn_for_are_named(tmp_path, mask, match):
    tifffile.imwrite(tmp_path / "m.tif", mask)
    with pytest.raises(UserError, match=rf"the mask .*m\.tif {match}"):
        files.write_pairs(builtin.BuiltinTissue(None), [tmp_path / "m.tif"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
