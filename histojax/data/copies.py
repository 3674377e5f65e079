"""Images that show the same tissue: crops, overlaps, and copies resized, recoloured or turned.

A signature is up to 224 landmarks of an image: blobs, the size of nuclei and their parts, with 64
bits of what surrounds each. Two images show the same tissue where landmarks of like bits lie alike
in both, but for a shift, a scale, quarter turns and mirroring. `np.savez` keeps signatures.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from histojax.metrics.image_quality import luma_bt601

# A pair takes 2 to 3 ms; beyond these a caller says that it did not search.
MOST_PAIRS = 200_000

# Each states the size of its image, so that an array of landmarks is a whole signature.
_FIELDS = [("height", "<i2"), ("width", "<i2"), ("y", "<i2"), ("x", "<i2"), ("sigma", "<f2")]
LANDMARK = np.dtype([*_FIELDS, ("bits", "<u8")])
# Glass has fewer than the least, and those are dust.
_LEAST_LANDMARKS, _MOST_LANDMARKS = 12, 224
_LONGEST_SIDE = 2048  # px; larger images are reduced
_SIGMA, _LEVELS, _OCTAVES = 1.5, 3, 4  # blobs of sigma 1.9 to 24 px
_LEAST_CONTRAST = 1.0  # grey levels, above the noise of cameras and JPEG
_MOST_UNLIKE = 10  # of 64 bits
# Pairs of different tissue, 29,161, agree in 5 landmarks at most. Labels burnt into images agree in
# more, which lie closer together than the landmarks where the images overlap.
_LEAST_AGREEING, _LEAST_SPREAD = 6, 0.35
_TOLERANCE = 2.0  # of a landmark's place, in its sigma
_MOST_CHANGE = 0.4  # of its scale against the image's, in log, and of its turn, in radians
_PAIRED = 40  # matches that propose where one image lies in the other


class _View(NamedTuple):
    """A signature in one of eight orientations; complex y + ix, from the middle of the image."""

    size: complex
    points: np.ndarray
    sigmas: np.ndarray
    bits: np.ndarray


def signature_of(image: np.ndarray) -> np.ndarray | None:
    """The signature of uint8 (H, W, 3): landmarks (N,); None where they are few, as on glass."""
    plane = luma_bt601(image).astype(np.float32)
    while max(plane.shape) > _LONGEST_SIDE:
        plane = ndimage.uniform_filter(plane, 2)[1::2, 1::2]
    size = plane.shape
    plane = ndimage.gaussian_filter(plane, _SIGMA)
    found, contrasts = [np.zeros(0, LANDMARK)], [np.zeros(0)]
    for octave in range(_OCTAVES):
        # The scale space of Lowe (Int. J. Comput. Vis. 60, 2004).
        sigmas = _SIGMA * np.sqrt(4.0 ** (np.arange(1, _LEVELS + 3) / _LEVELS) - 1)
        blurred = np.stack([plane, *(ndimage.gaussian_filter(plane, s) for s in sigmas)])
        for landmarks, contrast in _blobs(blurred[1:] - blurred[:-1]):
            for field in ("y", "x", "sigma"):
                landmarks[field] *= 2**octave
            found.append(landmarks)
            contrasts.append(contrast)
        plane = blurred[_LEVELS, ::2, ::2]
    order = np.argsort(-np.concatenate(contrasts), kind="stable")[:_MOST_LANDMARKS]
    kept = np.concatenate(found)[order]
    kept["height"], kept["width"] = size
    return kept if len(kept) >= _LEAST_LANDMARKS else None


def _blobs(differences: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Extrema of an octave (levels + 2, H, W): landmarks and contrasts of each level."""
    highest = ndimage.maximum_filter(differences, 3) == differences
    lowest = ndimage.minimum_filter(differences, 3) == differences
    contrast = np.abs(differences)
    extreme = np.where(differences > 0, highest, lowest) & (contrast > _LEAST_CONTRAST)
    found = []
    for level in range(1, _LEVELS + 1):
        sigma = _SIGMA * 2 ** (level / _LEVELS)
        grid = (np.arange(8) - 3.5) * sigma
        # What surrounds a landmark at the border is not known.
        margin = int(np.ceil(grid[-1]))
        y, x = np.nonzero(extreme[level, margin:-margin, margin:-margin])
        y, x = y + margin, x + margin
        around = np.broadcast_arrays(y[:, None, None] + grid[:, None], x[:, None, None] + grid)
        values = ndimage.map_coordinates(differences[level], around, order=1).reshape(-1, 64)
        landmarks = np.zeros(len(y), LANDMARK)
        landmarks["y"], landmarks["x"], landmarks["sigma"] = y, x, sigma
        landmarks["bits"] = _packed(values > np.median(values, axis=1, keepdims=True))
        found.append((landmarks, contrast[level, y, x]))
    return found


def _packed(bits: np.ndarray) -> np.ndarray:
    return np.packbits(bits.reshape(-1, 64), axis=1).view("<u8")[:, 0]


def copies_among(
    first: Sequence[np.ndarray | None], second: Sequence[np.ndarray | None] | None = None
) -> list[tuple[int, int, float]]:
    """Pairs of signatures of the same tissue; without `second`, those among `first`, i < j.

    Each is (i in first, j in second, the share of the smaller image that both show).
    """
    uprights = [(i, _views(own)[0]) for i, own in enumerate(first) if own is not None]
    found = []
    for j, other in enumerate(first if second is None else second):
        views = [] if other is None else _views(other)
        for i, upright in uprights:
            if (second is not None or i < j) and (share := _shared(upright, views)):
                found.append((i, j, share))
    return sorted(found)


def _views(signature: np.ndarray) -> list[_View]:
    """The signature as it is, turned by quarters, and mirrored with all of these."""
    size = complex(signature["height"][0], signature["width"][0])
    points = signature["y"] + 1j * signature["x"] - (size - (1 + 1j)) / 2
    packed = np.ascontiguousarray(signature["bits"])[:, None]
    bits = np.unpackbits(packed.view(np.uint8), axis=1).reshape(-1, 8, 8)
    sigmas = signature["sigma"].astype(np.float64)
    views = []
    for ends, about in ((points, bits), (points.conj(), bits[:, :, ::-1])):
        for quarter in range(4):
            turned = complex(size.imag, size.real) if quarter % 2 else size
            grids = _packed(np.rot90(about, quarter, (1, 2)))
            views.append(_View(turned, ends * 1j**quarter, sigmas, grids))
    return views


def _shared(first: _View, views: Sequence[_View]) -> float:
    """The share of the smaller image that both show, from all views of the second."""
    placed = [(*place, view) for view in views if (place := _placed(first, view))]
    if not placed:
        return 0.0
    agreeing, scale, shift, second = max(placed, key=lambda place: len(place[0]))
    overlap = _inside(second.size, (first.points - shift) / scale)
    if agreeing.std() < _LEAST_SPREAD * first.points[overlap].std():
        return 0.0
    of_second = _inside(first.size, scale * _evenly(second.size) + shift)
    of_first = _inside(second.size, (_evenly(first.size) - shift) / scale)
    return float(max(of_first.mean(), of_second.mean()))


def _placed(first: _View, second: _View) -> tuple[np.ndarray, complex, complex] | None:
    """Landmarks of `first` that agree that `second` lies at scale * point + shift in it."""
    unlike = np.bitwise_count(first.bits[:, None] ^ second.bits)
    i, j = divmod(np.flatnonzero(unlike <= _MOST_UNLIKE), unlike.shape[1])
    order = np.argsort(unlike[i, j], kind="stable")
    i, j = i[order], j[order]
    # Those that are each other's most alike, the most alike first.
    firsts, seconds = (np.unique(index, return_index=True)[1] for index in (i, j))
    mutual = np.intersect1d(firsts, seconds)
    if len(mutual) < _LEAST_AGREEING:
        return None
    i, j = i[mutual], j[mutual]
    here, there, sigmas = first.points[i], second.points[j], first.sigmas[i]
    ratios = sigmas / second.sigmas[j]
    p, q = np.triu_indices(min(len(i), _PAIRED), 1)
    apart = (there[p] != there[q]) & (here[p] != here[q])
    p, q = p[apart], q[apart]
    scales = (here[p] - here[q]) / (there[p] - there[q])
    likely = np.abs(np.log(scales / ratios[p])) < _MOST_CHANGE
    scales, p = scales[likely], p[likely]

    def agree(scale: np.ndarray, shift: np.ndarray) -> np.ndarray:
        near = np.abs(here - scale * there - shift) < _TOLERANCE * sigmas
        return near & (np.abs(np.log(scale / ratios)) < _MOST_CHANGE)

    votes = agree(scales[:, None], (here[p] - scales * there[p])[:, None])
    kept = votes[votes.sum(1).argmax()] if len(votes) else np.zeros(0, bool)
    scale, shift = 1, 0
    for _ in range(3):
        if kept.sum() < _LEAST_AGREEING:
            return None
        centred = there[kept] - there[kept].mean()
        scale = np.vdot(centred, here[kept]) / np.vdot(centred, centred)
        shift = here[kept].mean() - scale * there[kept].mean()
        kept = agree(scale, shift)
    return here[kept], scale, shift


def _evenly(size: complex) -> np.ndarray:
    """100 x 100 places of an image."""
    places = (np.arange(100) + 0.5) / 100 - 0.5
    return places[:, None] * size.real + 1j * places * size.imag


def _inside(size: complex, points: np.ndarray) -> np.ndarray:
    return (np.abs(points.real) <= size.real / 2) & (np.abs(points.imag) <= size.imag / 2)
