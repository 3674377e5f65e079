"""Measures how well fields that are cut from real images are put back in their places.

    python -m launch.mosaic_cases --data=folder:$MONUSEG --cases=50

Each case is one image, cut into fields that overlap by 15 to 50 %, jittered in place and brightness
and shuffled. In turn the fields are left so, turned by up to 1 degree, vignetted, blurred in part,
or joined by one that belongs to another image. A line for each case says how far the centers of the
fields are from their places, px, after the best common motion, and how many fields are left out.
"""

from collections.abc import Sequence

import numpy as np
from absl import flags
from scipy import ndimage

from histojax import cli
from histojax.data.sources import specs
from histojax.errors import UserError
from histojax.mosaic import stitching

KINDS = ("plain", "turned", "vignetted", "blurred", "foreign")
_DATA = flags.DEFINE_string("data", None, "SPEC of the images. Example: --data=folder:/data/tnbc")
_SPLIT = flags.DEFINE_string("split", "all", "Split of it: train, val, test or all.")
_CASES = flags.DEFINE_integer("cases", 50, "Number of cases.", 1)


def cut(image: np.ndarray, y: float, x: float, side: int, degrees: float) -> np.ndarray:
    """A square of an image (H, W, 3), turned about its own middle, float (side, side, 3)."""
    rows, columns = np.mgrid[:side, :side]
    middle = complex(side - 1, side - 1) / 2
    points = (rows + 1j * columns - middle) * np.exp(1j * np.deg2rad(degrees))
    points += complex(y, x) + middle
    where = [points.real, points.imag]
    planes = (
        ndimage.map_coordinates(plane.astype(np.float32), where, order=3, mode="reflect")
        for plane in np.moveaxis(image, -1, 0)
    )
    return np.stack(list(planes), -1)


def fields_of(
    image: np.ndarray, kind: str, rng: np.random.Generator
) -> tuple[list[np.ndarray], np.ndarray]:
    """The fields of an image, uint8, in any order, and their centers, y + ix, px."""
    shortest = min(image.shape[:2])
    side = int(shortest * rng.uniform(0.26, 0.4))
    overlap = rng.uniform(0.18, 0.5)
    step, slack = side * (1 - overlap), max(0.0, (overlap - 0.15) * side / 2)
    count = max(2, int((shortest - side) // step) + 1)
    y, x = np.mgrid[:side, :side] - side / 2
    fall = 1 - 0.35 * (y**2 + x**2) / (side**2 / 2)
    fields, centers = [], []
    for corner in np.ndindex(count, count):
        place = np.array(corner) * step + rng.uniform(-slack, slack, 2)
        top, left = np.clip(place, 3, shortest - side - 4)
        field = cut(image, top, left, side, rng.uniform(-1, 1) if kind == "turned" else 0.0)
        if kind == "vignetted":
            field = field * fall[..., None]
        field = field * rng.uniform(0.85, 1.15) + rng.uniform(-8, 8)
        if kind == "blurred" and rng.random() < 0.4:
            field = ndimage.gaussian_filter(field, (1.5, 1.5, 0))
        fields.append(np.clip(field + 0.5, 0, 255).astype(np.uint8))
        centers.append(complex(top, left) + complex(side - 1, side - 1) / 2)
    order = rng.permutation(len(fields))
    return [fields[k] for k in order], np.array(centers)[order]


def errors(placements: Sequence[stitching.Placement], centers: np.ndarray, side: int) -> np.ndarray:
    """How far the centers of the placed fields of one group are from their places, px."""
    middle = complex(side - 1, side - 1) / 2
    found = np.array(
        [complex(p.y, p.x) + middle * np.exp(1j * np.deg2rad(p.angle)) for p in placements]
    )
    found, true = found - found.mean(), centers - centers.mean()
    turn = (found.conj() * true).sum()
    return np.abs(found * (turn / abs(turn)) - true)


def case(images: Sequence[np.ndarray], number: int) -> dict[str, object]:
    """One case's line."""
    rng, kind = np.random.default_rng(number), KINDS[number % len(KINDS)]
    fields, centers = fields_of(images[number % len(images)], kind, rng)
    own, side = len(fields), len(fields[0])
    if kind == "foreign":
        fields.append(images[(number + 7) % len(images)][:side, :side].copy())
    placements = stitching.stitch(fields).placements
    off = [np.zeros(0)]
    for group in {p.group for p in placements} - {0}:
        members = [k for k in range(own) if placements[k].group == group]
        if len(members) > 1:
            off.append(errors([placements[k] for k in members], centers[members], side))
    far = np.concatenate(off)
    return {
        "kind": kind,
        "fields": own,
        "median_px": round(float(np.median(far)), 3) if len(far) else None,
        "worst_px": round(float(far.max()), 2) if len(far) else None,
        "left_out": sum(1 for p in placements[:own] if p.reason),
        "foreign_placed": sum(1 for p in placements[own:] if not p.reason),
    }


def main(argv: Sequence[str]) -> None:
    """Prints the cases and the medians of each kind."""
    del argv
    source = specs.open_source(str(_DATA.value), split=_SPLIT.value, require_labels=False)
    if len(source) < 2:
        raise UserError(f"--data={_DATA.value} has one image: give two or more")
    images = [source[index]["hr"] for index in range(len(source))]
    rows = []
    for number in range(_CASES.value):
        rows.append(case(images, number))
        print(number, rows[-1], flush=True)
    for kind in KINDS:
        own = [row for row in rows if row["kind"] == kind]
        medians = [row["median_px"] for row in own if row["median_px"] is not None]
        if medians:
            print(f"{kind}: {len(own)} cases, median of the medians {np.median(medians):.3f} px")


if __name__ == "__main__":
    flags.mark_flags_as_required(["data"])
    cli.run(main)
