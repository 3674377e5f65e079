import json
import logging

import numpy as np
import pytest
from PIL import Image

from histojax.data import survey
from histojax.data.sources import specs
from histojax.errors import UserError
from tests import tiny


def relabelled(root, change, folder="instances"):
    """Labels of a folder changed by a function of int32 (H, W)."""
    (root / folder).mkdir(exist_ok=True)
    for path in (root / "instances").iterdir():
        values = change(np.asarray(Image.open(path)).astype(np.int32))
        Image.fromarray(values.astype(np.uint16)).save(root / folder / path.name)
    if folder != "instances":
        for path in (root / "instances").iterdir():
            path.unlink()


def surveyed(root, split="train", **options):
    source = specs.open_source(f"folder:{root}", split=split)
    return survey.survey(source, "data", needs_labels=True, **options)


def test_a_split_is_counted(tmp_path):
    root = tiny.folder(tmp_path / "data", count=3, mpp=0.25)
    areas, medians = [], []
    for index in range(2):
        _, areas_of = np.unique(tiny.tissue(index)[1], return_counts=True)
        areas += areas_of[1:].tolist()
        medians.append(np.median(2 * np.sqrt(areas_of[1:] / np.pi)))
    found = surveyed(root)
    diameter = found.sizes["nucleus_diameter"]
    assert diameter == pytest.approx(np.mean(medians))
    assert found.sizes["nucleus_largest"] == pytest.approx(2 * np.percentile(areas, 99.9))
    words = f"2 images of 2 groups ({len(areas)} nuclei, median diameter {diameter:.0f} px)"
    assert found.words == words


def test_large_numbers_of_labels_count_as_small_ones(tmp_path):
    root = tiny.folder(tmp_path / "data", count=3)
    few = surveyed(root)
    relabelled(root, lambda labels: labels * 900)
    assert surveyed(root) == few


@pytest.mark.faults
@pytest.mark.parametrize("value", [1, 255])
def test_a_mask_given_as_instances_is_refused(tmp_path, value):
    root = tiny.folder(tmp_path / "data", count=3)
    relabelled(root, lambda labels: (labels > 0) * value)
    with pytest.raises(UserError, match=r"2 of 2 label images .* are masks, so move them to masks"):
        surveyed(root)
    # A run that needs no labels does not look at them.
    source = specs.open_source(f"folder:{root}", split="train")
    survey.survey(source, "data", needs_labels=False)


@pytest.mark.faults
def test_an_inverted_mask_is_refused(tmp_path):
    root = tiny.folder(tmp_path / "data", count=3)
    relabelled(root, lambda labels: labels == 0, folder="masks")
    with pytest.raises(UserError, match=r"2 masks, such as that of 'p0', .*they look inverted"):
        surveyed(root)


@pytest.mark.faults
def test_data_without_a_nucleus_are_refused(tmp_path):
    root = tiny.folder(tmp_path / "data", count=3)
    relabelled(root, lambda labels: labels * 0)
    with pytest.raises(UserError, match="data holds no nucleus at all in 2 images"):
        surveyed(root)


@pytest.mark.faults
@pytest.mark.parametrize("mpp", [0.01, 5.0, None])
def test_nuclei_of_an_absurd_size_are_warned_of(tmp_path, caplog, mpp):
    root = tiny.folder(tmp_path / "data", count=3, mpp=mpp)
    with caplog.at_level(logging.WARNING):
        surveyed(root)
    if mpp is None:
        assert not caplog.messages
    else:
        (said,) = caplog.messages
        assert f"and nuclei measure 3 to 20 um: check the labels and the scale of {mpp:g}" in said


@pytest.mark.faults
def test_labels_of_other_images_are_warned_of(tmp_path, caplog):
    root = tiny.folder(tmp_path / "data", count=3)
    for path in (root / "images").iterdir():
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    surveyed(root)
    (said,) = caplog.messages
    assert "in 2 images, such as 'p0', what is labelled is no darker than the rest" in said


def test_built_in_tissue_is_looked_at_in_part():
    source = specs.open_source("synthetic", split="train", synthetic={"size": 32, "train": 40})
    found = survey.survey(source, "data", needs_labels=True)
    assert found.words.startswith("40 images of ")
    assert "nuclei in 16 of them" in found.words


def test_glands_may_be_bright_and_large(tmp_path, caplog):
    root = tiny.folder(tmp_path / "data", count=3)
    relabelled(root, lambda labels: (labels == 0) * (1 + (np.arange(64) >= 32)))
    (root / "dataset.json").write_text(json.dumps({"objects": "glands"}))
    surveyed(root)
    assert not caplog.messages


def test_a_folder_is_summed_up_a_line_a_split(tmp_path):
    root = tiny.folder(tmp_path / "data", count=4, mpp=0.5)
    (root / "instances" / "other.png").write_bytes((root / "instances" / "p0.png").read_bytes())
    train, val, left_out = survey.folder_lines(root)
    assert train == f"train: {surveyed(root).words}, 0.5 um/px"
    assert val == f"val: {surveyed(root, split='val').words}, 0.5 um/px"
    assert left_out == "left out: 1 in instances/ without an image (other)"
