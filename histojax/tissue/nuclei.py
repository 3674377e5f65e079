"""Nuclei of synthetic tissue: where they lie, what they look like, and their exact instances.

Axes: S the side of the patch, N nuclei, E the side of a box around one nucleus. Lengths in px.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from histojax.tissue.noise import Noise, sample
from histojax.tissue.patient import Patient

_MIN_VISIBLE = 12
EPITHELIAL, SPINDLE, LYMPHOID = 0, 1, 2


@dataclasses.dataclass
class Ground:
    """The architecture of a patch; every array (S, S) float32."""

    kind: str
    form: np.ndarray  # rises from stroma through epithelium into lumina
    epithelium: np.ndarray  # 0 to 1
    lumen: np.ndarray  # 0 to 1, no tissue
    across: np.ndarray  # px across the fibres
    along: np.ndarray  # px along the fibres
    border: float  # `form` where epithelium begins
    depth: float  # rise of `form` from there to the lumen


@dataclasses.dataclass
class Nuclei:
    """One row per nucleus, upper ones first; (N,) unless stated otherwise."""

    y: np.ndarray
    x: np.ndarray
    major: np.ndarray  # half axes, px
    minor: np.ndarray
    angle: np.ndarray
    group: np.ndarray  # 0 epithelial, 1 spindle, 2 lymphoid
    lobes: np.ndarray  # (N, 6): cosine and sine parts of harmonics 2, 3, 4 of the outline
    density: np.ndarray  # 0: not seen, its cell alone is there
    vesicular: np.ndarray
    clumping: np.ndarray
    membrane: np.ndarray
    edge: np.ndarray  # px over which the outline fades
    nucleolus: np.ndarray  # strength
    spot: np.ndarray  # (N, 2): its place in units of the half axes
    tilt: np.ndarray  # (N, 2): change of density across the nucleus
    halo: np.ndarray


@dataclasses.dataclass
class Marks:
    """What the nuclei leave on a patch; (S, S) float32."""

    haematoxylin: np.ndarray
    cover: np.ndarray  # 0 to 1
    halo: np.ndarray  # 0 to 1


def place_nuclei(rng: np.random.Generator, ground: Ground, patient: Patient) -> Nuclei:
    """Nuclei on a lattice in epithelium, along the fibres of stroma, in clusters anywhere."""
    y, x, group = _positions(rng, ground, patient)
    count = len(y)
    normal = rng.standard_normal
    spread = np.where(group == EPITHELIAL, patient.pleomorphism, 0.16)
    radius = patient.radius * np.choose(group, [1.0, 0.80, 0.64]) * np.exp(spread * normal(count))
    epithelial = patient.elongation * np.exp(0.16 * normal(count))
    spindle = 1.5 + rng.gamma(2.0, 0.55, count)
    lymphoid = 1.0 + 0.15 * rng.random(count)
    ratio = np.clip(np.choose(group, [epithelial, spindle, lymphoid]), 1.0, 4.5)
    fibres = np.arctan2(*_rises(ground.across, y, x)) + np.pi / 2 + 0.15 * normal(count)
    # Columnar epithelium stands upright on its stroma; elsewhere cells lie as they come.
    upright = np.arctan2(*_rises(ground.form, y, x)) + 0.35 * normal(count)
    free = np.pi * rng.random(count)
    angle = np.where(group == SPINDLE, fibres, upright if ground.kind == "gland" else free)

    # Greedy thinning: the upper nucleus stays, a lower one that lies too far beneath it goes.
    order = rng.permutation(count)
    kept = order[_thinned(np.stack([y, x], 1)[order], radius[order], patient.overlap)]
    y, x, radius, ratio, angle, group = (v[kept] for v in (y, x, radius, ratio, angle, group))
    major = radius * np.sqrt(ratio)
    minor = np.maximum(radius / np.sqrt(ratio), 2.8 * patient.scale)
    return draw_appearance(rng, group, patient, (y, x, major, minor, angle))


def draw_appearance(
    rng: np.random.Generator, group: np.ndarray, patient: Patient, ellipses: Sequence[np.ndarray]
) -> Nuclei:
    """Nuclei of given groups and ellipses (y, x, major, minor, angle), whose looks are drawn."""
    count = len(group)
    normal, uniform = rng.standard_normal, rng.uniform
    solid = (group == LYMPHOID) | (rng.random(count) < 0.06)
    faint = (rng.random(count) < patient.faint) & ~solid
    density = patient.nuclear * np.exp(patient.nuclear_spread * normal(count))
    density *= np.where(solid, 1.35, np.where(faint, uniform(0.35, 0.75, count), 1.0))
    vesicular = np.clip(patient.vesicular + 0.22 * normal(count), 0, 1)
    vesicular *= np.where(solid, 0.15, np.where(group == SPINDLE, 0.6, 1.0))
    edge = np.where(faint, uniform(2.5, 5.5, count), 1.6 + np.abs(1.2 * normal(count)))
    nucleolus = (rng.random(count) < patient.nucleoli) & (group == EPITHELIAL) & ~solid
    wobble = np.array([0.06, 0.06, 0.05, 0.05, 0.025, 0.025]) * (0.6 + 2.0 * patient.pleomorphism)
    looks = dict(
        zip(("y", "x", "major", "minor", "angle"), ellipses, strict=True),
        lobes=wobble * normal((count, 6)),
        density=density,
        vesicular=vesicular,
        clumping=patient.clumping * uniform(0.6, 1.4, count),
        membrane=uniform(0.05, 0.6, count) * ~faint,
        # Edges widen by the root of a magnification alone, so that they are sharp at its px.
        edge=edge * max(patient.scale / patient.magnification, 0.7) * patient.magnification**0.5,
        nucleolus=nucleolus * uniform(0.2, 0.9, count),
        spot=0.28 * normal((count, 2)),
        tilt=0.14 * normal((count, 2)),
        halo=(rng.random(count) < patient.halo) * uniform(0.2, 1.0, count),
    )
    return Nuclei(group=group, **{k: v.astype(np.float32) for k, v in looks.items()})


def _thinned(places: np.ndarray, radius: np.ndarray, overlap: float) -> np.ndarray:
    """Which of the discs (N,) stay if each hides those after it nearer than `overlap` radii."""
    kept = np.ones(len(places), bool)
    if len(places) < 2:
        return kept
    pairs = cKDTree(places).query_pairs(2 * overlap * radius.max(), output_type="ndarray")
    apart = np.sqrt(((places[pairs[:, 0]] - places[pairs[:, 1]]) ** 2).sum(1))
    pairs = pairs[apart < overlap * radius[pairs].sum(1)]
    # By the lower disc: when its turn comes, the fate of all above it is settled.
    for upper, lower in pairs[np.lexsort(pairs.T)]:
        if kept[upper]:
            kept[lower] = False
    return kept


def _positions(
    rng: np.random.Generator, ground: Ground, patient: Patient
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Candidates (y, x, group), also a little outside the patch, so that its edge cuts nuclei."""
    size = ground.form.shape[0]
    margin = 1.5 * patient.radius
    span = size + 2 * margin
    crowding = {"discohesive": 1.15, "clear": 0.55, "gland": 1.25}.get(ground.kind, 1.0)
    filling = patient.filling * crowding
    pitch = patient.radius * np.sqrt(np.pi / (0.866 * filling))
    count = int(np.ceil(span * span / (0.866 * pitch * pitch)))
    rows = max(round(span / (0.866 * pitch)), 1)
    number = np.arange(count)
    row = number * rows // count
    lattice = np.stack([(row + 0.5) * span / rows, (number * rows / count % 1.0) * span], 1)
    lattice[:, 1] += 0.5 * pitch * (row % 2)
    lattice += rng.normal(0.0, rng.uniform(0.12, 0.30) * pitch, lattice.shape)
    lattice = lattice[:, :: int(rng.choice((1, -1)))] % span - margin
    if ground.kind == "gland":
        lattice = _toward_base(rng, lattice, ground, patient)

    unit = span * span / patient.scale**2
    spindles = rng.poisson(unit * rng.uniform(0.8e-4, 4.0e-4))
    inflamed = rng.random() < 0.5
    small = rng.poisson(unit * rng.uniform(0.1e-4, 1.6e-4) * inflamed)
    spindle = rng.uniform(-margin, size + margin, (spindles, 2))
    hubs = rng.uniform(0, size, (int(rng.integers(1, 4)), 2))
    cloud = rng.normal(0, 45.0 * patient.scale, (small, 2))
    cluster = hubs[rng.integers(0, len(hubs), small)] + cloud
    y, x = np.concatenate([lattice, spindle, cluster]).T
    group = np.repeat([EPITHELIAL, SPINDLE, LYMPHOID], [len(lattice), spindles, small])

    epithelium, lumen = sample(ground.epithelium, y, x), sample(ground.lumen, y, x)
    chance = rng.random(len(y))
    in_epithelium = (epithelium > 0.5) & (lumen < 0.3) & (chance < 0.92)
    in_stroma = (epithelium < 0.5) & (lumen < 0.5)
    anywhere = (chance < 1.0 - 0.7 * epithelium) & (lumen < 0.5)
    keep = np.choose(group, [in_epithelium, in_stroma, anywhere])
    return y[keep], x[keep], group[keep]


def _toward_base(
    rng: np.random.Generator, places: np.ndarray, ground: Ground, patient: Patient
) -> np.ndarray:
    """Moves places (N, 2) toward the base of the epithelium, as nuclei of glands lie in a row.

    One Newton step to the level of the base, no longer than a cell.
    """
    y, x = places.T
    base = ground.border + rng.uniform(0.25, 0.5) * ground.depth
    slope = np.stack(_rises(ground.form, y, x), 1) / 8
    squared = np.maximum((slope**2).sum(1, keepdims=True), 1e-8)
    move = (base - sample(ground.form, y, x))[:, None] * slope / squared
    length = np.sqrt((move**2).sum(1, keepdims=True)) + 1e-6
    longest = 2.2 * patient.radius
    near = length < 2 * longest
    return places + rng.uniform(0.4, 0.95) * near * move * np.minimum(1.0, longest / length)


def _rises(field: np.ndarray, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How much `field` rises along y and along x over 8 px about (y, x)."""
    down = sample(field, y + 4, x) - sample(field, y - 4, x)
    right = sample(field, y, x + 4) - sample(field, y, x - 4)
    return down, right


def render_nuclei(nuclei: Nuclei, noise: Noise) -> tuple[Marks, np.ndarray]:
    """Draws the nuclei: their marks, and `instances` int32 (S, S).

    Instances are exact: a pixel belongs to the uppermost nucleus whose outline holds its centre.
    """
    size = noise.size
    rim = int(np.ceil(5 * noise.magnification))
    reach = np.ceil(1.12 * np.maximum(nuclei.major, nuclei.minor)).astype(int) + rim
    pad = int(reach.max(initial=0)) * 2 + 2
    corner_y = np.rint(nuclei.y).astype(int) - reach + pad
    corner_x = np.rint(nuclei.x).astype(int) - reach + pad
    boxes: list = [None] * len(reach)
    by_reach = np.argsort(reach, kind="stable")
    # Boxes of like size are drawn together; more groups waste fewer pixels but cost more calls.
    for part in np.array_split(by_reach, min(6, max(len(by_reach), 1))):
        if len(part):
            longest = int(reach[part].max())
            corner_y[part] += reach[part] - longest
            corner_x[part] += reach[part] - longest
            drawn = _draw(columns(nuclei, part), longest, noise)
            for i, *layers in zip(part, *drawn, strict=True):
                boxes[i] = layers

    canvas = np.zeros((3, size + 2 * pad, size + 2 * pad), np.float32)
    labels = np.zeros(canvas.shape[1:], np.int32)
    for i in range(len(boxes) - 1, -1, -1):
        depth, alpha, dye, ring = boxes[i]
        y, x = corner_y[i], corner_x[i]
        if min(y, x) < 0 or max(y, x) + len(depth) > size + 2 * pad:
            continue
        box = np.s_[y : y + len(depth), x : x + len(depth)]
        lay_over(canvas[:, *box], alpha, dye, ring)
        np.copyto(labels[box], i + 1, where=depth > 0)
    marks = Marks(*canvas[:, pad : pad + size, pad : pad + size].copy())
    return marks, tidy(labels[pad : pad + size, pad : pad + size].copy())


def _draw(nuclei: Nuclei, reach: int, noise: Noise) -> tuple[np.ndarray, ...]:
    """Depth below the outline in px, cover, dye and halo of `columns`, each (N, E, E) float32.

    The outline in polar form about the ellipse is rho(t) = 1 + sum_k c_k cos kt + s_k sin kt; the
    distance to it is taken to first order, (outline - rho) / |grad rho|.
    """
    span = np.arange(-reach, reach + 1, dtype=np.float32)
    dy = span[None, :, None] + (np.rint(nuclei.y) - nuclei.y)
    dx = span[None, None, :] + (np.rint(nuclei.x) - nuclei.x)
    frame = _, _, rho, c1, s1 = frame_of(nuclei, dy, dx)
    major, minor, lobes = nuclei.major, nuclei.minor, nuclei.lobes
    c2, s2 = c1 * c1 - s1 * s1, 2 * c1 * s1
    # Harmonics 3 and 4 from products of 1 and 2.
    outline = 1 + c2 * (lobes[0] + lobes[2] * c1 + lobes[3] * s1 + lobes[4] * c2)
    outline += s2 * (lobes[1] - lobes[2] * s1 + lobes[3] * c1 - lobes[4] * s2 + 2 * lobes[5] * c2)
    steepness = np.sqrt((c1 / major) ** 2 + (s1 / minor) ** 2)
    # At the very centre the angle is undefined and the steepness 0.
    depth = (outline - rho) / np.maximum(steepness, 1 / np.maximum(major, minor))
    return depth, *paint(nuclei, depth, frame, noise)


def rows(nuclei: Nuclei, part: np.ndarray) -> Nuclei:
    """The nuclei of these numbers, or where this is true."""
    return Nuclei(**{name: values[part] for name, values in vars(nuclei).items()})


def columns(nuclei: Nuclei, part: np.ndarray) -> Nuclei:
    """`rows` for images of boxes: (N, 1, 1) each, (K, N, 1, 1) where a nucleus has K values."""
    fields = vars(rows(nuclei, part)).items()
    return Nuclei(**{name: values.T[..., None, None] for name, values in fields})


def frame_of(nuclei: Nuclei, dy: np.ndarray, dx: np.ndarray) -> tuple[np.ndarray, ...]:
    """The pixels that lie (`dy`, `dx`) px from the middles of nuclei (`columns`), as these lie.

    (u, v) along the major and the minor axis, in half axes, its length, the cosine and the sine of
    its direction; each (N, H, W) float32.
    """
    cos, sin = np.cos(nuclei.angle), np.sin(nuclei.angle)
    major, minor = nuclei.major, nuclei.minor
    u = (cos / major) * dx + (sin / major) * dy
    v = (cos / minor) * dy - (sin / minor) * dx
    rho = np.sqrt(u * u + v * v) + np.float32(1e-6)
    return u, v, rho, u / rho, v / rho


def paint(
    nuclei: Nuclei, depth: np.ndarray, frame: Sequence[np.ndarray], noise: Noise
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cover, dye and halo of nuclei in boxes around them, each (N, H, W) float32.

    `nuclei` are `columns`. `depth` (N, H, W), px below the outline and negative outside, alone
    gives the outlines; `frame` holds the same pixels. Each grain is a crop of "chromatin".
    """
    u, v, _, cosine, sine = frame
    major, minor = nuclei.major, nuclei.minor
    grain = np.stack(noise.crops("chromatin", *depth.shape))
    unit = np.float32(noise.magnification)
    alpha = (depth + 1.1 * np.sqrt(unit)) / nuclei.edge + (0.5 + np.float32(0.10) * grain)
    np.clip(alpha, 0.0, 1.0, out=alpha)
    vesicular = nuclei.vesicular
    core = grain * (nuclei.clumping * (0.8 + 0.5 * vesicular)) + (1 - 0.72 * vesicular)
    core += nuclei.tilt[0] * u + nuclei.tilt[1] * v
    np.maximum(core, 0.2, out=core)
    rim = np.maximum(1 - np.abs(depth / unit - 1.0) * np.float32(0.4), 0)
    core += rim * ((0.2 + 1.7 * vesicular) * nuclei.membrane)
    spot_y, spot_x = nuclei.spot
    off = (u - spot_x) ** 2 * (major / minor) + (v - spot_y) ** 2 * (minor / major)
    core += nuclei.nucleolus * np.maximum(1 - 14.0 * off, 0)
    dye = alpha * core * nuclei.density
    ring = np.maximum(1 - np.abs(depth / unit + 3.2) * np.float32(0.45), 0) * nuclei.halo
    facing = nuclei.tilt[0] * cosine + nuclei.tilt[1] * sine
    ring *= np.clip(0.6 + 4.0 * facing, 0, 1)
    return alpha, dye, ring


def lay_over(canvas: np.ndarray, alpha: np.ndarray, dye: np.ndarray, ring: np.ndarray) -> None:
    """Adds a nucleus to its box (3, H, W) of dye, cover and halo, in place, over what is there."""
    total, cover, halo = canvas
    # The upper of two nuclei hides most of the lower: a section is thinner than two nuclei.
    total *= 1 - 0.75 * alpha
    total += dye
    np.maximum(cover, alpha, out=cover)
    np.maximum(halo, ring, out=halo)


def tidy(instances: np.ndarray) -> np.ndarray:
    """Keeps, in place, the largest 8-connected piece of each label of int32 (S, S); renumbers 1..n.

    Labels visible on fewer than 12 px are dropped.
    """
    count = 0
    for number, box in enumerate(ndimage.find_objects(instances), start=1):
        if box is None:
            continue
        view = instances[box]
        mine = view == number
        pieces, found = ndimage.label(mine, np.ones((3, 3)))
        if found > 1:
            best = pieces == 1 + np.bincount(pieces[mine])[1:].argmax()
            view[mine & ~best] = 0
            mine = best
        if np.count_nonzero(mine) < _MIN_VISIBLE:
            view[mine] = 0
        else:
            # At most `number`, so no label that is still to come is overwritten.
            count += 1
            view[mine] = count
    return instances
