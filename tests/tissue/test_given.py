"""Given nuclei: their ellipses, groups and outlines, and the tissue around them."""

import dataclasses

import numpy as np
import pytest

from histojax.tissue import given, noise
from histojax.tissue.nuclei import EPITHELIAL, LYMPHOID, SPINDLE, Ground, Marks, Nuclei
from histojax.tissue.patient import draw_patient

PATIENT = draw_patient(0, 0)


def _noise(size: int) -> noise.Noise:
    return noise.Noise(np.random.default_rng(0), noise.banks(0), size)


def _ground(size: int, epithelium: float = 1.0, lumen: float = 0.0) -> Ground:
    flat = np.zeros((size, size), np.float32)
    return Ground("sheet", flat, flat + epithelium, flat + lumen, flat, flat, 0.0, 9.0)


def _plain(labels: np.ndarray, density: list[float]) -> Nuclei:
    """Nuclei without texture, membrane, nucleolus, tilt or halo."""
    nuclei = given.given_nuclei(
        np.random.default_rng(0), labels, _ground(max(labels.shape)), PATIENT
    )
    none = np.zeros(len(density), np.float32)
    plain = dict.fromkeys(("vesicular", "clumping", "membrane", "nucleolus", "halo"), none)
    plain |= {"edge": none + 1.5, "tilt": 0 * nuclei.tilt, "density": np.float32(density)}
    return dataclasses.replace(nuclei, **plain)


def _draw(labels: np.ndarray, density: list[float]) -> Marks:
    return given.draw_given(_plain(labels, density), labels, _noise(max(labels.shape)))


def test_an_ellipse_is_recovered_from_its_pixels():
    y, x = np.mgrid[:96, :120]
    cos, sin = np.cos(0.6), np.sin(0.6)
    u = (cos * (x - 70.25) + sin * (y - 41.5)) / 24
    v = (cos * (y - 41.5) - sin * (x - 70.25)) / 9
    found = given._ellipses((u * u + v * v < 1).astype(np.int32))
    np.testing.assert_allclose(np.ravel(found), [41.5, 70.25, 24, 9, 0.6], rtol=0.02)


def test_rectangles_and_pixels_have_the_spread_of_squares():
    labels = np.zeros((40, 40), np.int32)
    labels[3:15, 5:11] = 1
    labels[30, 20] = 2
    y, x, major, minor, angle = given._ellipses(labels)
    np.testing.assert_allclose(y, [8.5, 30])
    np.testing.assert_allclose(x, [7.5, 20])
    # A side of n px has the variance n^2 / 12, of which twice the root is n / sqrt(3).
    np.testing.assert_allclose(major, np.array([12, 1]) / np.sqrt(3))
    np.testing.assert_allclose(minor, np.array([6, 1]) / np.sqrt(3))
    # Along y.
    assert abs(angle[0]) == pytest.approx(np.pi / 2)


def test_groups_follow_shape_and_place():
    radius = np.array([1.0, 1.0, 1.0, 1.0, 0.6, 0.6, 1.0]) * PATIENT.radius
    ratio = np.array([1.2, 2.5, 1.8, 1.8, 1.1, 1.5, 1.0])
    epithelium = np.array([1, 1, 1, 0, 0, 1, 0])
    expected = [
        EPITHELIAL,
        SPINDLE,  # long
        EPITHELIAL,
        SPINDLE,  # a little long, and in stroma
        LYMPHOID,  # small and round
        EPITHELIAL,  # small, not round
        EPITHELIAL,
    ]
    np.testing.assert_array_equal(given._groups(radius, ratio, epithelium, PATIENT), expected)


def test_nuclei_that_are_all_small_are_not_all_lymphocytes():
    small = np.full(9, 0.5 * PATIENT.radius)
    groups = given._groups(small, np.ones(9), np.ones(9), PATIENT)
    assert (groups == EPITHELIAL).all()


def test_depth_is_half_a_pixel_on_either_side_of_the_outline():
    mask = np.zeros((9, 12), bool)
    mask[2:7, 3:9] = True
    depth = given._depth(mask)
    np.testing.assert_array_equal(depth > 0, mask)
    np.testing.assert_allclose(
        depth[4], [-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 2.5, 1.5, 0.5, -0.5, -1.5, -2.5]
    )
    # Off a corner.
    assert depth[0, 1] == pytest.approx(0.5 - np.sqrt(8))


def test_a_pixel_holds_the_dye_of_its_nucleus_alone():
    labels = np.zeros((48, 64), np.int32)
    labels[12:36, 10:30] = 1
    labels[12:36, 30:50] = 2
    marks = _draw(labels, [0.4, 1.6])
    assert marks.haematoxylin.shape == (64, 64)
    # Half a pixel below the outline the cover is 1.6 / 1.5 + 0.5 and grain: full.
    inside = labels > 0
    expected = np.array([0, 0.4, 1.6])[labels]
    np.testing.assert_allclose(marks.haematoxylin[:48][inside], expected[inside], rtol=1e-6)
    np.testing.assert_allclose(marks.cover[:48][inside], 1)
    # Over the outline it fades within some px.
    np.testing.assert_array_equal(marks.haematoxylin[:, 56:], 0)
    assert 0 < marks.haematoxylin[24, 51] < 1.6


def test_a_nucleus_that_the_border_cuts_does_not_end_there():
    labels = np.zeros((32, 32), np.int32)
    labels[:, :10] = 1
    nuclei = dataclasses.replace(_plain(labels, [1.0]), membrane=np.ones(1, np.float32))
    marks = given.draw_given(nuclei, labels, _noise(32))
    # The membrane runs along the outline, a pixel below it, and along no border of the image.
    assert (marks.haematoxylin[:, 8] > 1.05).all()
    np.testing.assert_allclose(marks.haematoxylin[:, :6], 1, rtol=1e-6)


def test_distances_go_on_beyond_the_label_image():
    labels = np.zeros((2, 5), np.int32)
    labels[:, 1] = 4
    expected = np.tile(np.float32([1, 0, 1, 2, 3]), (5, 1))
    np.testing.assert_array_equal(given.distance_to_given(labels, 5), expected)
    assert np.isposinf(given.distance_to_given(0 * labels, 5)).all()


def test_a_lumen_ends_around_given_nuclei():
    labels = np.zeros((128, 128), np.int32)
    labels[60:70, 60:70] = 1
    distance = given.distance_to_given(labels, 128)
    ground = given.without_lumen(_ground(128, lumen=1.0), distance, _noise(128), PATIENT)
    assert ground.lumen[labels > 0].max() < 0.01
    # The texture that makes it ragged has unit variance: 5 of its deviations are a radius.
    np.testing.assert_allclose(ground.lumen[distance > 2.2 * PATIENT.radius], 1)


def test_cells_are_unseen_where_no_given_nucleus_is_near():
    far = 40 + 3 * PATIENT.radius
    labels = np.zeros((200, 200), np.int32)
    labels[35:46, 35:46] = 1
    nuclei = _plain(labels, [1.0])
    two = {f.name: np.repeat(getattr(nuclei, f.name), 2, 0) for f in dataclasses.fields(nuclei)}
    placed = dataclasses.replace(Nuclei(**two), y=np.float32([40, far]), x=np.float32([52, far]))
    distance = given.distance_to_given(labels, 200)
    cells = given.with_unseen(nuclei, placed, distance, PATIENT)
    np.testing.assert_array_equal(cells.density, [1, 0])
    np.testing.assert_allclose(cells.y, [40, far])
    assert cells.spot.shape == (2, 2)
