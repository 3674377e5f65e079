"""Amounts of dye in a patch of synthetic tissue: cells, collagen, fat, blood, distractors.

Axes: S the side of the patch. Lengths in px.
"""

import numpy as np

from histojax.tissue.noise import BANK, Noise, sample, step
from histojax.tissue.nuclei import Ground, Marks, Nuclei
from histojax.tissue.patient import Patient


def dyes_of(
    rng: np.random.Generator,
    noise: Noise,
    ground: Ground,
    nuclei: Nuclei,
    marks: Marks,
    patient: Patient,
) -> list[np.ndarray]:
    """Amounts of haematoxylin, eosin and, with blood, haemoglobin, each (S, S) float32."""
    textures = tuple(noise.crop(name) for name in ("coarse", "coarse", "mid", "fine"))
    _, _, mid, fine = textures
    contrast = np.float32(patient.texture)
    cyto_h, cyto_e, cyto_gaps = _cytoplasm(rng, ground, nuclei, patient, textures)
    stro_h, stro_e, split = _collagen(rng, noise, ground, patient, textures)
    stroma = 1 - ground.epithelium

    # A lumen is empty, or holds pale mucus, or dense secretion.
    contents = (0.02, rng.uniform(0.1, 0.35), rng.uniform(0.4, 0.8))
    content = float(rng.choice(contents, p=(0.7, 0.2, 0.1))) * (ground.kind != "discohesive")
    gaps = split * stroma + ground.epithelium * cyto_gaps
    gaps = np.maximum(gaps, np.float32(0.85) * marks.halo)
    if ground.kind == "fat":
        gaps = np.maximum(gaps, _fat(rng, ground, patient.scale))
    filled = np.float32(content) * (1 + contrast * (0.25 * mid + 0.12 * fine))
    gaps = np.maximum(gaps, ground.lumen * (1 - filled))
    covered = np.clip(1 - gaps, 0.03, 1.0)
    # Cells and fibres are denser where they face a lumen.
    apical = ground.lumen * (1 - ground.lumen) * np.float32(rng.uniform(0.2, 2.2))
    under = covered * (1 + apical) * (1 - np.float32(0.1) * marks.cover)
    eosin = under * (ground.epithelium * cyto_e + stroma * stro_e)
    haematoxylin = under * (ground.epithelium * cyto_h + stroma * stro_h) + marks.haematoxylin
    _distract(rng, haematoxylin, eosin, patient, covered)
    dyes = [haematoxylin, eosin]
    if rng.random() < 0.25:
        dyes.append(_blood(rng, ground, patient) * (1 - np.float32(0.9) * marks.cover))
    return dyes


def _cell_borders(
    centers: np.ndarray, weight: np.ndarray, size: int, reach: int
) -> tuple[np.ndarray, np.ndarray]:
    """Additively weighted Voronoi cells: how much nearer the nearest centre is, and its number.

    The first is 0 on a border, and at least `reach` where a single cell or none is in reach; the
    second is len(centers) where there is none.
    """
    span = np.arange(-reach, reach + 1, dtype=np.float32)
    cone = np.sqrt(span[:, None] ** 2 + span**2)
    first = np.full((size, size), reach, np.float32)
    second = 2 * first
    owner = np.full((size, size), len(centers), np.int32)
    for i, (y, x) in enumerate(np.rint(centers).astype(int)):
        y0, y1 = max(y - reach, 0), min(y + reach + 1, size)
        x0, x1 = max(x - reach, 0), min(x + reach + 1, size)
        if y0 >= y1 or x0 >= x1:
            continue
        box = np.s_[y0:y1, x0:x1]
        d = cone[y0 - y + reach : y1 - y + reach, x0 - x + reach : x1 - x + reach] - weight[i]
        nearest, next_nearest = first[box], second[box]
        np.minimum(next_nearest, np.maximum(nearest, d), out=next_nearest)
        np.copyto(owner[box], i, where=d < nearest)
        np.minimum(nearest, d, out=nearest)
    return second - first, owner


def _cytoplasm(rng, ground, nuclei, patient, textures) -> tuple[np.ndarray, ...]:
    """Haematoxylin and eosin of epithelial cells, and how empty each pixel is (0 to 1)."""
    coarse, other, mid, fine = textures
    size, scale = len(coarse), np.float32(patient.scale)
    cells = nuclei.group == 0
    centers = np.stack([nuclei.y[cells], nuclei.x[cells]], 1)
    centers = centers + rng.normal(0, 0.25 * patient.radius, centers.shape)
    weight = 0.5 * np.sqrt(nuclei.major * nuclei.minor)[cells]
    gap, owner = _cell_borders(centers, weight, size, int(3.4 * patient.radius))
    shift = (scale * (3.0 * coarse + 0.8 * mid)).astype(np.int32)
    shift_x = (scale * (3.0 * other + 0.8 * mid)).astype(np.int32)
    reach = np.arange(size, dtype=np.int32)
    rows = np.clip(reach[:, None] + shift, 0, size - 1)
    warp = rows * size + np.clip(reach + shift_x, 0, size - 1)
    gap, owner = gap.ravel().take(warp), owner.ravel().take(warp)

    number = len(centers) + 1
    shares = {"clear": rng.uniform(0.5, 0.95), "gland": rng.uniform(0, 0.35)}
    share = shares.get(ground.kind, rng.uniform(0.0, 0.25))
    washed = (rng.random(number) < share) * rng.uniform(0.4, 1.0, number)
    basophil = np.exp(0.40 * rng.standard_normal(number)).astype(np.float32)
    # A dark cell whose nucleus is not seen would pass for a nucleus.
    unseen = np.flatnonzero(nuclei.density[cells] == 0)
    basophil[unseen] = np.minimum(basophil[unseen], 1.0)
    eosinophil = np.exp(0.18 * rng.standard_normal(number)).astype(np.float32)
    ragged = gap + 1.2 * np.float32(patient.magnification) * fine
    gaps = washed.astype(np.float32).take(owner) * step(ragged, 4.5 * scale, 4.0 * scale)
    gaps *= np.clip(0.85 + 0.35 * mid + 0.25 * fine, 0, 1)
    usual = max(0.0, 1.0 - 1.6 * patient.cohesion)
    loose = {"discohesive": 1.0, "clear": 0.1}.get(ground.kind, usual)
    if loose > 0:
        breadth = np.maximum((0.6 + 1.6 * coarse + 2.2 * loose) * (loose * scale), 0.0)
        gaps = np.maximum(gaps, (1 - step(gap - breadth, 1.0, 2.4)) * np.minimum(breadth, 1.0))
    strength = np.float32((1 - loose) * rng.uniform(-0.25, 0.5))
    membrane = np.maximum(1 - gap * (0.4 / scale), 0) * strength
    grain = np.float32(patient.texture) * (0.14 * coarse + 0.15 * mid + 0.10 * fine)
    amount_h, amount_e = patient.cytoplasm
    eosin = np.float32(amount_e) * eosinophil.take(owner) * np.maximum(1 + grain + membrane, 0.1)
    # Basophilia follows its own pattern, else a single factor would explain a cell's colour.
    pattern = np.float32(patient.texture / (1 + amount_h)) * (0.32 * other + 0.16 * fine)
    haematoxylin = np.float32(amount_h) * basophil.take(owner)
    haematoxylin *= np.maximum(1 + grain + pattern + membrane, 0.1)
    return haematoxylin, eosin, gaps


def _collagen(rng, noise, ground, patient, textures) -> tuple[np.ndarray, ...]:
    """Haematoxylin and eosin of stroma, and its clefts (0 to 1)."""
    coarse, other, mid, fine = textures
    offset = rng.integers(0, BANK, 2).astype(np.int32)
    stretch = 1.0 / (patient.scale * rng.uniform(0.8, 1.5))
    v, u = ground.across * np.float32(stretch), ground.along * np.float32(stretch)
    fibre, cleft = (noise.strands(name, v, u, offset) for name in ("fibre", "cleft"))
    finer = noise.magnification
    fibre = noise.with_detail(fibre, noise.strands("fibre", finer * v, finer * u, offset))
    dense = rng.beta(1.3, 1.0)
    contrast = np.float32(patient.texture * (0.8 + 0.6 * (1 - dense)))
    bundle = np.float32(0.75) + np.float32(0.35) * other
    pattern = 0.24 * bundle * fibre + 0.11 * fine + 0.12 * coarse + 0.06 * mid
    band = np.maximum(1 + contrast * pattern, 0.12)
    amount_h, amount_e = patient.stroma
    eosin = np.float32(amount_e * (0.6 + 0.5 * dense)) * band
    haematoxylin = np.float32(amount_h) * np.maximum(1 + contrast * (0.8 * fibre + 0.5 * mid), 0.05)
    split = cleft * step(coarse, 0.9 * dense + 0.1, 1.2)
    return haematoxylin, eosin, np.float32(0.9) * split


def _discs(field: np.ndarray, y, x, radius, soft, amount, dent: float = 0.0) -> None:
    """Adds discs to `field` in place; `soft` px of edge, the middle thinner by `dent`."""
    size = len(field)
    for cy, cx, r, w, a in zip(y, x, radius, soft, amount, strict=True):
        e = int(r + w + 2)
        y0, y1 = max(int(cy) - e, 0), min(int(cy) + e + 1, size)
        x0, x1 = max(int(cx) - e, 0), min(int(cx) + e + 1, size)
        if y0 >= y1 or x0 >= x1:
            continue
        d2 = (np.arange(y0, y1, dtype=np.float32)[:, None] - np.float32(cy)) ** 2
        d2 = d2 + (np.arange(x0, x1, dtype=np.float32) - np.float32(cx)) ** 2
        disc = np.clip((np.float32(r) - np.sqrt(d2)) * np.float32(1.0 / w) + 0.5, 0, 1)
        if dent:
            disc *= 1 - np.float32(dent) * np.exp(d2 * np.float32(-1.0 / (0.3 * r * r)))
        field[y0:y1, x0:x1] += np.float32(a) * disc


def _fat(rng: np.random.Generator, ground: Ground, scale: float) -> np.ndarray:
    """White vacuoles of adipocytes, parted by thin walls, outside the epithelium."""
    size = len(ground.form)
    pitch = 85.0 * scale
    count = max(int((size / pitch + 1) ** 2), 2)
    centers = rng.uniform(-0.2 * pitch, size + 0.2 * pitch, (count, 2))
    weight = rng.uniform(0, 12.0 * scale, count)
    gap, _ = _cell_borders(centers, weight, size, int(1.6 * pitch))
    return step(gap, 5.0 * scale, 4.0) * (1 - step(ground.form, ground.border - 0.5, 0.3))


def _distract(rng, haematoxylin, eosin, patient: Patient, covered: np.ndarray) -> None:
    """Adds, in place, what takes up dye and is no nucleus: blurred shadows, debris, globules."""
    size = len(haematoxylin)
    unit = (size / 256.0 / patient.scale) ** 2
    count = rng.poisson(5.0 * unit)
    y, x = rng.uniform(0, size, (2, count))
    radius = patient.radius * rng.uniform(0.5, 1.2, count)
    soft = rng.uniform(5.0, 12.0, count) * patient.scale
    below = np.zeros_like(haematoxylin)
    _discs(below, y, x, radius, soft, patient.nuclear * rng.uniform(0.12, 0.6, count))
    haematoxylin += below * covered
    count = rng.poisson(2.5 * unit)
    y, x = rng.uniform(0, size, (2, count))
    radius = rng.uniform(1.0, 3.0, count) * patient.scale
    debris = patient.nuclear * rng.uniform(0.3, 1.0, count) * (0.2 + 0.8 * sample(covered, y, x))
    _discs(haematoxylin, y, x, radius, 1.5 + 0 * y, debris)
    count = rng.poisson(1.5 * unit)
    y, x = rng.uniform(0, size, (2, count))
    radius = patient.radius * rng.uniform(0.4, 1.1, count)
    globule = patient.stroma[1] * rng.uniform(0.2, 0.8, count) * sample(covered, y, x)
    _discs(eosin, y, x, radius, rng.uniform(2, 6, count), globule)


def _blood(rng: np.random.Generator, ground: Ground, patient: Patient) -> np.ndarray:
    """Red cells, paler in the middle, in a loose cluster outside the epithelium."""
    size, scale = len(ground.form), patient.scale
    blood = np.zeros((size, size), np.float32)
    count = int(rng.integers(3, 22) * max((size / 256.0 / patient.magnification) ** 2, 0.3))
    y, x = (rng.uniform(0, size, 2) + rng.normal(0, 26.0 * scale, (count, 2))).T
    keep = sample(ground.epithelium * (1 - ground.lumen), y, x) < 0.5
    y, x = y[keep], x[keep]
    radius = 11.5 * scale * np.exp(0.1 * rng.standard_normal(len(y)))
    amount = rng.uniform(0.7, 1.2) * rng.uniform(0.8, 1.2, len(y))
    _discs(blood, y, x, radius, 1.8 + 0 * y, amount, dent=0.35)
    return np.minimum(blood, 1.3)
