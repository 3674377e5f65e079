"""Every published layout: which images are found, whose they are, and what they hold."""

import importlib
import logging

import numpy as np
import pytest

from histojax.data.datasets import glas, monuseg, nuinsseg, pannuke, tcia, tnbc
from histojax.data.sources import prepared
from histojax.errors import UserError
from histojax.imaging.reader import MAX_PIXELS
from tests.data.datasets import official


def _refused(read, root, *words):
    with pytest.raises(UserError) as refusal:
        read(root, MAX_PIXELS)
    for word in words:
        assert str(word) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def _of(contents, field):
    return [getattr(example, field) for example in contents.examples]


@pytest.mark.parametrize("name", prepared.DATASETS)
def test_every_set_says_whose_it_is_and_refuses_another_layout(name, tmp_path):
    dataset = importlib.import_module(f"histojax.data.datasets.{name}").DATASET
    assert dataset.name == name
    assert all((dataset.title, dataset.licence, dataset.citation, dataset.layout))
    (tmp_path / "notes.txt").write_text("nothing")
    _refused(dataset.read, tmp_path, tmp_path, "does not hold the expected layout", dataset.layout)


@pytest.mark.faults
@pytest.mark.parametrize("name", ["folder", "glas", "monuseg", "nuinsseg", "tcia", "tnbc"])
def test_an_image_beyond_max_pixels_is_refused(name, tmp_path):
    if name == "folder":
        official.save(tmp_path / "images" / "a.png", official.picture(0))
        official.save(tmp_path / "instances" / "a.png", official.two_nuclei())
    else:
        getattr(official, name)(tmp_path)
    read = importlib.import_module(f"histojax.data.datasets.{name}").DATASET.read
    assert len(read(tmp_path, 40 * 48).examples[0].load()["hr"]) == 40
    with pytest.raises(
        UserError, match=r"needs .*1920 pixels .* limit is 1919: .*raise max_pixels"
    ):
        read(tmp_path, 40 * 48 - 1).examples[0].load()


def test_monuseg(tmp_path):
    contents = monuseg.read(official.monuseg(tmp_path), MAX_PIXELS)
    assert _of(contents, "name") == list(official.MONUSEG)
    assert _of(contents, "group") == ["TCGA-AA-0001", "TCGA-AA-0001", "TCGA-BB-0002"]
    assert contents.mpp == 0.25
    record = contents.examples[1].load()
    np.testing.assert_array_equal(record["hr"], official.picture(1))
    areas = np.bincount(record["instances"].ravel())[1:]
    # Squares of 6 and 5 px share 3 x 3 px, which go to the first.
    np.testing.assert_array_equal(areas, [36, 25 - 9])


def test_monuseg_test_images_are_told_by_their_patients(tmp_path):
    official.monuseg(tmp_path / "MoNuSeg 2018 Training Data")
    flat = "TCGA-HT-8564-01Z-00-DX1"
    official.save(tmp_path / "MoNuSegTestData" / f"{flat}.tif", official.picture(9))
    official.aperio(tmp_path / "MoNuSegTestData" / f"{flat}.xml", [official.square(1, 1, 5)])
    contents = monuseg.read(tmp_path, MAX_PIXELS)
    parts = dict(zip(_of(contents, "name"), _of(contents, "part"), strict=True))
    assert parts.pop(flat) == "test"
    assert set(parts.values()) == {"train"}


def test_monuseg_flaws_are_named(tmp_path):
    root = official.monuseg(tmp_path)
    _, second, third = official.MONUSEG
    (root / "Annotations" / f"{second}.xml").unlink()
    _refused(monuseg.read, root, f"{second}.tif has no annotation {second}.xml", "add it")
    official.aperio(root / "Annotations" / f"{second}.xml", [official.square(400, 400, 5)])
    examples = monuseg.read(root, MAX_PIXELS).examples
    with pytest.raises(UserError, match="none of its 1 regions lies in"):
        examples[1].load()
    official.save(root / "copy" / f"{third}.tif", official.picture(2))
    _refused(monuseg.read, root, f"are both '{third}'", "keep one of them")


def test_monuseg_image_without_nuclei_is_taken(tmp_path):
    root = official.monuseg(tmp_path, official.MONUSEG[:1])
    official.aperio(root / "Annotations" / f"{official.MONUSEG[0]}.xml", [])
    assert not monuseg.read(root, MAX_PIXELS).examples[0].load()["instances"].any()


def test_tnbc_masks_become_their_components(tmp_path):
    contents = tnbc.read(official.tnbc(tmp_path), MAX_PIXELS)
    assert _of(contents, "name") == ["01_1", "01_2", "02_1", "02_2"]
    assert _of(contents, "group") == ["slide-01", "slide-01", "slide-02", "slide-02"]
    record = contents.examples[2].load()
    np.testing.assert_array_equal(record["hr"], official.picture(21))
    # Two nuclei that touch at a corner only are two; they are numbered from the top.
    expected = np.select([official.two_nuclei() == 3, official.two_nuclei() == 9], [1, 2])
    np.testing.assert_array_equal(record["instances"], expected)
    (tmp_path / "GT_02" / "02_1.png").unlink()
    _refused(tnbc.read, tmp_path, "Slide_02/02_1.png has no annotation GT_02/02_1.png")


def test_tnbc_mask_of_another_size_is_named(tmp_path):
    official.tnbc(tmp_path)
    official.save(tmp_path / "GT_01" / "01_1.png", np.zeros((40, 47), np.uint8))
    with pytest.raises(UserError, match=r"01_1.png is 40 x 47 px.*is 40 x 48 px"):
        tnbc.read(tmp_path, MAX_PIXELS).examples[0].load()


def test_tcia_patches_have_the_patients_of_the_table(tmp_path):
    contents = tcia.read(official.tcia(tmp_path), MAX_PIXELS)
    assert _of(contents, "name") == ["1", "2", "3"]
    assert _of(contents, "group") == ["TCGA-A2-A0CL", "TCGA-A2-A0CL", "TCGA-05-4244"]
    np.testing.assert_array_equal(contents.examples[0].load()["instances"], official.two_nuclei())


def test_tcia_without_its_table_says_what_that_means(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        contents = tcia.read(official.tcia(tmp_path, table=False), MAX_PIXELS)
    assert _of(contents, "group") == ["patch-1", "patch-2", "patch-3"]
    assert any("patients of 3 of 3 patches are not known" in line for line in caplog.messages)


def test_tcia_leaves_out_what_was_never_segmented(tmp_path):
    official.tcia(tmp_path)
    official.save(tmp_path / "49_crop.png", official.picture(49))
    assert _of(tcia.read(tmp_path, MAX_PIXELS), "name") == ["1", "2", "3"]
    official.save(tmp_path / "50_crop.png", official.picture(50))
    _refused(tcia.read, tmp_path, "50_crop.png has no annotation 50_labeled_mask_corrected.png")


def test_glas_masks_hold_the_grade(tmp_path):
    contents = glas.read(official.glas(tmp_path), MAX_PIXELS)
    assert dict(zip(_of(contents, "name"), _of(contents, "group"), strict=True)) == {
        "train_1": "patient-1",
        "train_2": "patient-2",
        "train_3": "patient-3",
        "testA_1": "patient-1",
        "testB_1": "patient-4",
    }
    grades = {}
    for example in contents.examples:
        record = example.load()
        np.testing.assert_array_equal(record["instances"], official.two_nuclei())
        assert record["mask"].dtype == np.uint8
        np.testing.assert_array_equal(record["mask"] > 0, official.two_nuclei() > 0)
        grades[example.name] = contents.classes[record["mask"].max()]
    assert grades == {
        "train_1": "healthy",
        "train_2": "moderately differentiated",
        "train_3": "poorly differentiated",
        "testA_1": "adenomatous",
        "testB_1": "moderately to poorly differentiated",
    }
    assert contents.splits == {"": {"train": ["train"], "test": ["testA", "testB"]}}


def test_glas_flaws_are_named(tmp_path):
    table = official.glas(tmp_path) / "Grade.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join(lines[:-1]))
    _refused(glas.read, tmp_path, table, "has no line for image 'testB_1'")
    table.write_text("\n".join([*lines[:-1], "testB_1,4, malignant, terrible"]))
    _refused(glas.read, tmp_path, "line 6", "a grade out of healthy")
    table.unlink()
    _refused(glas.read, tmp_path, "no Grade.csv")


def test_nuinsseg_takes_corrected_labels_and_groups_by_organ(tmp_path):
    contents = nuinsseg.read(official.nuinsseg(tmp_path), MAX_PIXELS)
    assert _of(contents, "name") == ["human_bladder_01", "mouse_liver_01"]
    assert _of(contents, "group") == ["human-bladder", "mouse-liver"]
    assert contents.mpp is None
    np.testing.assert_array_equal(contents.examples[1].load()["instances"], official.two_nuclei())
    corrected = tmp_path / "mouse liver" / "label masks modify" / "mouse_liver_01.tif"
    corrected.unlink()
    assert not nuinsseg.read(tmp_path, MAX_PIXELS).examples[1].load()["instances"].any()
    (tmp_path / "mouse liver" / "label masks" / "mouse_liver_01.tif").unlink()
    _refused(nuinsseg.read, tmp_path, "mouse_liver_01.png has no annotation")


def test_pannuke_numbers_nuclei_across_classes(tmp_path):
    contents = pannuke.read(official.pannuke(tmp_path), MAX_PIXELS)
    assert _of(contents, "name")[:3] == ["fold1-0000", "fold1-0001", "fold2-0000"]
    assert _of(contents, "part") == ["fold1"] * 2 + ["fold2"] * 2 + ["fold3"] * 2
    record = contents.examples[3].load()
    np.testing.assert_array_equal(record["hr"], official.picture(21, 32, 32))
    expected = np.zeros((32, 32), np.uint8)
    expected[5:9, 5:9] = 2
    expected[2:6, 2:6] = 1
    np.testing.assert_array_equal(record["mask"], expected)
    # Both classes number their nucleus 4; here they are two, and the first class has the overlap.
    np.testing.assert_array_equal(record["instances"], expected.astype(np.int32) * 4)
    assert contents.splits[""] == {"train": ["fold1"], "val": ["fold2"], "test": ["fold3"]}
    assert contents.splits["3"] == {"train": ["fold3"], "val": ["fold2"], "test": ["fold1"]}


def test_pannuke_with_one_fold_has_that_to_train_on(tmp_path):
    contents = pannuke.read(official.pannuke(tmp_path, folds=(2,)), MAX_PIXELS)
    assert contents.splits == {"": {"train": ["fold2"]}}


def test_pannuke_flaws_are_named(tmp_path):
    official.pannuke(tmp_path, folds=(1,))
    masks = tmp_path / "Fold 1/masks/fold1/masks.npy"
    np.save(masks, np.zeros((1, 32, 32, 6)))
    _refused(pannuke.read, tmp_path, masks, "holds 1 masks for 2 images")
    np.save(masks, np.zeros((2, 32, 32)))
    pannuke._array.cache_clear()
    _refused(pannuke.read, tmp_path, masks, "(N, 256, 256, 6) are due")
    masks.write_bytes(b"not an array")
    pannuke._array.cache_clear()
    _refused(pannuke.read, tmp_path, masks, "is not a NumPy array")
    masks.unlink()
    pannuke._array.cache_clear()
    _refused(pannuke.read, tmp_path, "does not hold the expected layout")
