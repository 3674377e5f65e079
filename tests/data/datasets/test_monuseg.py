"""Outlines become the pixels that they enclose, and a damaged file is one sentence."""

import numpy as np
import pytest

from histojax.data.datasets.monuseg import draw_regions, read_regions
from histojax.errors import UserError
from tests.data.datasets import official


def test_first_region_wins_where_two_overlap(tmp_path):
    official.aperio(
        tmp_path / "a.xml", [official.square(4, 5, 6), official.square(7, 8, 5), [(0, 0)]]
    )
    labels = draw_regions(read_regions(tmp_path / "a.xml"), 40, 48)
    expected = np.zeros((40, 48), np.int32)
    expected[7:12, 8:13] = 2
    expected[4:10, 5:11] = 1
    expected[0, 0] = labels[0, 0]  # a region of one point may cover its pixel or none
    np.testing.assert_array_equal(labels, expected)
    assert labels.dtype == np.int32


def test_what_lies_outside_is_cut_off():
    labels = draw_regions([np.array(official.square(-3, 45, 8), float)], 40, 48)
    expected = np.zeros((40, 48), np.int32)
    expected[:5, 45:] = 1
    np.testing.assert_array_equal(labels, expected)


def test_a_number_of_a_region_without_pixels_is_not_used_again():
    far = np.array(official.square(90, 90, 4), float)
    near = np.array(official.square(1, 1, 4), float)
    assert set(np.unique(draw_regions([far, np.empty((0, 2)), near], 10, 10))) == {0, 3}


@pytest.mark.faults
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<Annotations><Annotation>", "not valid XML"),
        ("", "not valid XML"),
        ("<html/>", "not an Aperio annotation"),
        (
            '<Annotations><Annotation><Regions><Region><Vertices><Vertex X="1"/></Vertices>'
            "</Region></Regions></Annotation></Annotations>",
            "a vertex of region 1 has no numbers X and Y",
        ),
        (
            '<Annotations><Annotation><Regions><Region><Vertices><Vertex X="nan" Y="1"/>'
            "</Vertices></Region></Regions></Annotation></Annotations>",
            "a vertex of region 1 has no numbers .*not finite",
        ),
    ],
)
def test_a_damaged_annotation_is_named(tmp_path, text, words):
    path = tmp_path / "a.xml"
    path.write_text(text)
    with pytest.raises(UserError, match=words) as refusal:
        read_regions(path)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)
