"""Nuclei of a given label image: what they look like, drawn where they lie.

Axes: H, W the sides of the label image, S that of the square which is drawn, N nuclei, h, w the
sides of a box around one nucleus. Lengths in px.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import ndimage

from histojax.tissue.noise import Noise, sample, step
from histojax.tissue.nuclei import (
    EPITHELIAL,
    LYMPHOID,
    SPINDLE,
    Ground,
    Marks,
    Nuclei,
    as_nuclei,
    draw_appearance,
    frame_of,
    lay_over,
    paint,
    rows,
)
from histojax.tissue.patient import Patient

# How far the dye of a nucleus reaches beyond its outline: half the broadest edge, and its grain.
_RIM = 8


def given_nuclei(
    rng: np.random.Generator, labels: np.ndarray, ground: Ground, patient: Patient
) -> Nuclei:
    """The nuclei of a label image, as ellipses of the same moments; what they look like is drawn.

    Args:
        rng: what is drawn from.
        labels: int (H, W), 0 background, 1..N without a gap.
        ground: the architecture they lie in; its sides may be longer.
        patient: whose nuclei they are.

    Returns:
        One row per label, in their order. Their lobes are drawn too, and of no meaning here.
    """
    y, x, major, minor, angle = _ellipses(labels)
    group = _groups(np.sqrt(major * minor), major / minor, sample(ground.epithelium, y, x), patient)
    columns = dict(y=y, x=x, major=major, minor=minor, angle=angle)
    return as_nuclei(group, columns | draw_appearance(rng, group, patient))


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
    """Tells the groups of nuclei by their shapes and places; each (N,).

    Args:
        radius: geometric means of the half axes.
        ratio: of the half axes, 1 or more.
        epithelium: 0 to 1, of the tissue around them.
        patient: whose nuclei they are.
    """
    # In `place_nuclei` spindles lie in stroma at ratios of 1.5 to 4.5, 2.6 on average; lymphocytes
    # end at 1.15, to which lobes add, and have 0.64 of the patient's radius.
    spindle = (ratio > 2.0) | ((ratio > 1.6) & (epithelium < 0.5))
    # Given nuclei may all be smaller than the patient's: lymphocytes are small among these too.
    usual = min(patient.radius, np.median(radius)) if len(radius) else patient.radius
    lymphoid = (ratio < 1.35) & (radius < 0.8 * usual)
    return np.where(spindle, SPINDLE, np.where(lymphoid, LYMPHOID, EPITHELIAL))


def distance_to_given(labels: np.ndarray, size: int) -> np.ndarray:
    """Distance of each pixel to the next given nucleus, float32 (S, S), S = `size`.

    Beyond `labels`, of which (H, W) at most (S, S), the last distances are repeated.
    """
    if labels.any():
        distance = ndimage.distance_transform_edt(labels == 0).astype(np.float32)
    else:
        distance = np.full(labels.shape, np.inf, np.float32)
    return np.pad(distance, [(0, size - side) for side in labels.shape], mode="edge")


def without_lumen(ground: Ground, distance: np.ndarray, noise: Noise, patient: Patient) -> Ground:
    """The architecture with no lumen on and around given nuclei.

    Args:
        ground: as laid out without regard to them.
        distance: of `distance_to_given`.
        noise: its "mid" makes the new borders ragged.
        patient: whose tissue it is.
    """
    reach = 0.9 * patient.radius
    ragged = distance + np.float32(0.2 * patient.radius) * noise.crop("mid")
    return dataclasses.replace(ground, lumen=ground.lumen * step(ragged, reach, 0.4 * reach))


def with_unseen(nuclei: Nuclei, placed: Nuclei, distance: np.ndarray, patient: Patient) -> Nuclei:
    """Given nuclei, and without dye those of the tissue's own that no given one is near.

    The cells of these are seen without their nuclei, as are cells cut above or below them; else
    epithelium where no nuclei are given would have no cells.

    Args:
        nuclei: the given ones.
        placed: of `place_nuclei`.
        distance: of `distance_to_given`.
        patient: whose tissue it is.
    """
    apart = sample(distance, placed.y, placed.x) > 1.2 * patient.radius
    unseen = dataclasses.replace(rows(placed, apart), density=np.zeros(apart.sum(), np.float32))
    names = [field.name for field in dataclasses.fields(Nuclei)]
    return Nuclei(**{n: np.concatenate([getattr(nuclei, n), getattr(unseen, n)]) for n in names})


def draw_given(nuclei: Nuclei, labels: np.ndarray, noise: Noise) -> Marks:
    """Draws the nuclei, each within the outline that its label has; (S, S), S of `noise`.

    Args:
        nuclei: N rows; of `given_nuclei`.
        labels: int (H, W), 0 background, 1..N without a gap.
        noise: of the square that is drawn; `labels` fill it from its first corner on.
    """
    size = noise.size
    # What the border cuts goes on beyond it.
    framed = np.pad(labels, _RIM, mode="edge")
    canvas = np.zeros((3, size + 2 * _RIM, size + 2 * _RIM), np.float32)
    for i, (y, x) in enumerate(ndimage.find_objects(labels)):
        box = np.s_[y.start : y.stop + 2 * _RIM, x.start : x.stop + 2 * _RIM]
        mine = framed[box] == i + 1
        depth = _depth(mine)[None]
        dy = np.arange(y.start - _RIM, y.stop + _RIM, dtype=np.float32) - nuclei.y[i]
        dx = np.arange(x.start - _RIM, x.stop + _RIM, dtype=np.float32) - nuclei.x[i]
        nucleus = rows(nuclei, np.array([i]))
        frame = frame_of(nucleus, dy[None, :, None], dx[None, None, :])
        (alpha,), (dye,), (ring,) = paint(nucleus, depth, frame, noise)
        # Faded edges fall on the background alone: a pixel of a nucleus takes up no other's dye.
        others = ~mine & (framed[box] > 0)
        alpha[others], dye[others] = 0, 0
        lay_over(canvas[:, *box], alpha, dye, ring)
    inner = np.s_[_RIM : _RIM + size, _RIM : _RIM + size]
    return Marks(*(np.ascontiguousarray(layer[inner]) for layer in canvas))


def _depth(mask: np.ndarray) -> np.ndarray:
    """Signed distance to the outline of a mask (h, w), float32: positive on its pixels.

    The outline runs half a pixel off the centres of the mask's own pixels.
    """
    # Without a frame, a mask that fills its box would have no outline.
    mask = np.pad(mask, 1)
    inside, outside = (ndimage.distance_transform_edt(part) for part in (mask, ~mask))
    return (inside - outside + np.where(mask, -0.5, 0.5)).astype(np.float32)[1:-1, 1:-1]
