"""Nuclei of a given label image: what they look like, drawn where they lie.

Axes: H, W the sides of the label image, S that of the square which is drawn, N nuclei, h, w the
sides of a box around one nucleus. Lengths in px.
"""

import dataclasses

import numpy as np
from scipy import ndimage

from histojax.tissue import nuclei
from histojax.tissue.noise import Noise, sample, step
from histojax.tissue.nuclei import Ground, Marks, Nuclei
from histojax.tissue.patient import Patient

# How far the dye of a nucleus reaches beyond its outline: half the broadest edge, and its grain.
_RIM = 8


def given_nuclei(
    rng: np.random.Generator, labels: np.ndarray, ground: Ground, patient: Patient
) -> Nuclei:
    """The nuclei of a label image, as ellipses of the same moments; what they look like is drawn.

    Labels, int (H, W), are 1..N without a gap, 0 background; the ground's sides may be longer. Each
    has a row, in their order. Their lobes are drawn too, and of no meaning here.
    """
    ellipses = y, x, major, minor, _ = _ellipses(labels)
    group = _groups(np.sqrt(major * minor), major / minor, sample(ground.epithelium, y, x), patient)
    return nuclei.draw_appearance(rng, group, patient, ellipses)


def _ellipses(labels: np.ndarray) -> tuple[np.ndarray, ...]:
    """Middles y and x, half axes, and angles from x towards y, of labels 1..N; each (N,)."""
    y, x = np.nonzero(labels)
    owner = labels[y, x] - 1
    area = np.bincount(owner)

    def mean(values: np.ndarray) -> np.ndarray:
        return np.bincount(owner, values) / area

    middle_y, middle_x = mean(y), mean(x)
    dy, dx = y - middle_y[owner], x - middle_x[owner]
    # A pixel is a square: it spreads by 1/12 about its centre.
    yy, xx, xy = mean(dy * dy) + 1 / 12, mean(dx * dx) + 1 / 12, mean(dx * dy)
    middle, spread = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
    # An ellipse spreads by a quarter of its squared half axes.
    major, minor = 2 * np.sqrt(middle + spread), 2 * np.sqrt(np.maximum(middle - spread, 1 / 12))
    return middle_y, middle_x, major, minor, 0.5 * np.arctan2(2 * xy, xx - yy)


def _groups(
    radius: np.ndarray, ratio: np.ndarray, epithelium: np.ndarray, patient: Patient
) -> np.ndarray:
    """The groups of nuclei by geometric mean and ratio of their half axes, and by their tissue."""
    # In `place_nuclei` spindles lie in stroma at ratios of 1.5 to 4.5, 2.6 on average; lymphocytes
    # end at 1.15, to which lobes add, and have 0.64 of the patient's radius.
    spindle = (ratio > 2.0) | ((ratio > 1.6) & (epithelium < 0.5))
    # Given nuclei may all be smaller than the patient's: lymphocytes are small among these too.
    usual = min(patient.radius, np.median(radius)) if len(radius) else patient.radius
    lymphoid = (ratio < 1.35) & (radius < 0.8 * usual)
    return np.where(spindle, nuclei.SPINDLE, np.where(lymphoid, nuclei.LYMPHOID, nuclei.EPITHELIAL))


def distance_to_given(labels: np.ndarray, size: int) -> np.ndarray:
    """Distance of each pixel to the next given nucleus, float32 (S, S), S = `size`.

    Beyond `labels`, of which (H, W) at most (S, S), the last distances are repeated.
    """
    distance = np.full(labels.shape, np.inf, np.float32)
    if labels.any():
        distance = ndimage.distance_transform_edt(labels == 0).astype(np.float32)
    return np.pad(distance, [(0, size - side) for side in labels.shape], mode="edge")


def without_lumen(ground: Ground, distance: np.ndarray, noise: Noise, patient: Patient) -> Ground:
    """The architecture with no lumen on and around given nuclei, at a `distance_to_given`."""
    reach = 0.9 * patient.radius
    ragged = distance + np.float32(0.2 * patient.radius) * noise.crop("mid")
    return dataclasses.replace(ground, lumen=ground.lumen * step(ragged, reach, 0.4 * reach))


def with_unseen(given: Nuclei, placed: Nuclei, distance: np.ndarray, patient: Patient) -> Nuclei:
    """Given nuclei, and without dye those of the tissue's own that no given one is near.

    The cells of these are seen without their nuclei, as are cells cut above or below them; else
    epithelium where no nuclei are given would have no cells.
    """
    apart = sample(distance, placed.y, placed.x) > 1.2 * patient.radius
    unseen = nuclei.rows(placed, apart)
    unseen.density[:] = 0
    both = {name: (values, vars(unseen)[name]) for name, values in vars(given).items()}
    return Nuclei(**{name: np.concatenate(values) for name, values in both.items()})


def draw_given(given: Nuclei, labels: np.ndarray, noise: Noise) -> Marks:
    """Draws the nuclei, each within the outline that its label has; (S, S), S of `noise`.

    The labels, 1..N for the N rows, fill the square from its first corner on.
    """
    size = noise.size
    # What the border cuts goes on beyond it.
    framed = np.pad(labels, _RIM, mode="edge")
    canvas = np.zeros((3, size + 2 * _RIM, size + 2 * _RIM), np.float32)
    for i, (y, x) in enumerate(ndimage.find_objects(labels)):
        box = np.s_[y.start : y.stop + 2 * _RIM, x.start : x.stop + 2 * _RIM]
        mine = framed[box] == i + 1
        depth = _depth(mine)[None]
        dy = np.arange(y.start - _RIM, y.stop + _RIM, dtype=np.float32) - given.y[i]
        dx = np.arange(x.start - _RIM, x.stop + _RIM, dtype=np.float32) - given.x[i]
        nucleus = nuclei.columns(given, np.array([i]))
        frame = nuclei.frame_of(nucleus, dy[None, :, None], dx[None, None, :])
        (alpha,), (dye,), (ring,) = nuclei.paint(nucleus, depth, frame, noise)
        # Faded edges fall on the background alone: a pixel of a nucleus takes up no other's dye.
        others = ~mine & (framed[box] > 0)
        alpha[others], dye[others] = 0, 0
        nuclei.lay_over(canvas[:, *box], alpha, dye, ring)
    return Marks(*canvas[:, _RIM : _RIM + size, _RIM : _RIM + size].copy())


def _depth(mask: np.ndarray) -> np.ndarray:
    """Signed distance to the outline of a mask (h, w), float32: positive on its pixels.

    The outline runs half a pixel off the centres of the mask's own pixels.
    """
    # Without a frame, a mask that fills its box would have no outline.
    mask = np.pad(mask, 1)
    inside, outside = (ndimage.distance_transform_edt(part) for part in (mask, ~mask))
    return (inside - outside + np.where(mask, -0.5, 0.5)).astype(np.float32)[1:-1, 1:-1]
