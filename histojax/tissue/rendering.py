"""Synthetic H&E tissue: an image model with exact nuclear instances.

A patch, with nuclei of its own (`tissue`) or given ones (`tissue_of`), is built as amounts of dye
per pixel (haematoxylin, eosin, haemoglobin) and turned into light by the Beer-Lambert law,
I = I0 exp(-sum_s a_s v_s), v_s the optical density of one unit of dye s in R, G, B (Ruifrok and
Johnston 2001, eq. 1). What all patches of one patient share (dyes, nuclear size and texture,
architecture, optics) is drawn from the patient's own random stream; what a patch holds is drawn
from the patch's.

Axes: S the side of a patch. Lengths are in px of 0.25 um. At a finer `mpp` those of the tissue are
0.25 / mpp times as many px, and optics and sensor keep theirs, so that an image is sharp.
"""

from collections.abc import Sequence

import numpy as np
from skimage.segmentation import relabel_sequential

from histojax.checks import check, whole
from histojax.errors import UserError
from histojax.tissue import given
from histojax.tissue.dyes import dyes_of
from histojax.tissue.noise import STREAM_PATCH, STREAM_SCALE, Noise, banks, generator, step
from histojax.tissue.nuclei import Ground, place_nuclei, render_nuclei
from histojax.tissue.patient import KINDS, Patient, draw_patient

MODEL_VERSION = 1
MPP = 0.25
PATCHES_PER_PATIENT = 2
# Sides from which tissue is drawn around given nuclei, px.
SMALLEST = 16
_RULES = {
    "seed": whole(0),
    "index": whole(0),
    "size": whole(SMALLEST),
    "patches_per_patient": whole(1),
}


def tissue(
    seed: int,
    index: int,
    size: int = 256,
    *,
    patches_per_patient: int = PATCHES_PER_PATIENT,
    mpp: Sequence[float] = (MPP, MPP),
) -> dict[str, np.ndarray]:
    """Draws patch `index` of the tissue of `seed`, independently of every other patch.

    Args:
        seed: 0 or more; another seed is another set of patients.
        index: 0 or more; patch `index` belongs to patient `index // patches_per_patient`.
        size: side S of the square patch in px, at least 16.
        patches_per_patient: consecutive indices that share a patient.
        mpp: two um per px of at most 0.25; each patient's is drawn log-uniformly between them.

    Returns:
        "image" uint8 (S, S, 3) RGB, and "instances" int32 (S, S): 0 background, then 1..n with no
        gap, each label one 8-connected region; where nuclei overlap the pixel is the upper one's.
        The same arguments give the same arrays in every process. Another build of NumPy may round
        a transcendental function otherwise, which moves single pixels by a grey level.

    Raises:
        UserError: an argument is out of range.
    """
    rng, noise, patient = _begin(seed, index, size, patches_per_patient, mpp)
    ground = _lay_out(rng, noise, patient)
    nuclei = place_nuclei(rng, ground, patient)
    marks, instances = render_nuclei(nuclei, noise)
    dyes = dyes_of(rng, noise, ground, nuclei, marks, patient)
    return {"image": _expose(rng, noise, dyes, patient), "instances": instances}


def tissue_of(instances: np.ndarray, seed: int, index: int) -> np.ndarray:
    """Draws tissue with given nuclei: what `tissue` draws, but for where nuclei lie.

    The patient and the architecture are those of `tissue(seed, index, max(H, W))`, less lumina at
    the given nuclei; what these look like, cytoplasm, collagen, optics and sensor are drawn by the
    same rules. A square is drawn, then cut, so a strip costs as much as the square.

    Args:
        instances: integer (H, W), sides of at least 16 px; 0 is background, each other label one
            nucleus, also where it has several pieces. Labels may have gaps.
        seed, index: as of `tissue` with one patch of each patient.

    Returns:
        uint8 (H, W, 3) RGB; the same arguments give the same array, as of `tissue`.

    Raises:
        UserError: an argument is out of range, or `instances` no label image of that kind.
    """
    labels = _renumbered(np.asarray(instances))
    height, width = labels.shape
    rng, noise, patient = _begin(seed, index, max(height, width), 1)
    ground = _lay_out(rng, noise, patient)
    distance = given.distance_to_given(labels, noise.size)
    placed = place_nuclei(rng, ground, patient)
    ground = given.without_lumen(ground, distance, noise, patient)
    nuclei = given.given_nuclei(rng, labels, ground, patient)
    marks = given.draw_given(nuclei, labels, noise)
    cells = given.with_unseen(nuclei, placed, distance, patient)
    dyes = dyes_of(rng, noise, ground, cells, marks, patient)
    return _expose(rng, noise, dyes, patient)[:height, :width].copy()


def _renumbered(instances: np.ndarray) -> np.ndarray:
    """The labels as 1..n in the order of their numbers, int32 (H, W)."""
    got = "synthetic tissue got instances"
    if instances.ndim != 2 or not np.issubdtype(instances.dtype, np.integer):
        raise UserError(
            f"{got} of {instances.dtype} and shape {instances.shape}, which must be integers "
            "(H, W), 0 for background; give a label image."
        )
    height, width = instances.shape
    if min(height, width) < SMALLEST:
        raise UserError(
            f"{got} of {height} x {width} px, whose sides must be at least {SMALLEST} px; give a "
            "larger label image."
        )
    if instances.min() < 0:
        raise UserError(
            f"{got} with label {instances.min()}, and labels must be 0 (background) or more; "
            "number the nuclei from 1."
        )
    native = instances.astype(instances.dtype.newbyteorder("="))  # a copy, as is needed
    return relabel_sequential(native)[0].astype(np.int32)


def _begin(
    seed: int, index: int, size: int, patches_per_patient: int, mpp: Sequence[float] = (MPP, MPP)
) -> tuple[np.random.Generator, Noise, Patient]:
    """The random stream of a patch, its noise, and its patient."""
    values = dict(seed=seed, index=index, size=size, patches_per_patient=patches_per_patient)
    check(values, _RULES, "tissue ")
    seed, number = int(seed), int(index) // int(patches_per_patient)
    share = generator(seed, STREAM_SCALE, number).random()  # so a patient is one at every scale
    magnification = MPP / (mpp[0] * (mpp[1] / mpp[0]) ** share)
    patient = draw_patient(seed, number, magnification)
    rng = generator(seed, STREAM_PATCH, int(index))
    return rng, Noise(rng, banks(seed), int(size), magnification), patient


def _lay_out(rng: np.random.Generator, noise: Noise, patient: Patient) -> Ground:
    kind = KINDS[int(rng.choice(len(KINDS), p=patient.kinds))]
    wavelength = {"gland": 150.0, "sheet": 260.0, "clear": 220.0}.get(kind, 240.0)
    form = noise.smooth(wavelength * patient.scale * rng.uniform(0.8, 1.25))
    form = form + 0.25 * noise.smooth(60.0 * patient.scale) + np.float32(0.04) * noise.crop("mid")
    border = {
        "sheet": rng.uniform(-1.6, -0.3),
        "gland": rng.uniform(-0.7, 0.1),
        "clear": rng.uniform(-1.5, -0.5),
        "stroma": rng.uniform(1.3, 2.4),
        "discohesive": rng.uniform(-2.2, -1.2),
        "fat": rng.uniform(1.2, 2.0),
    }[kind]
    depth = {
        "sheet": rng.uniform(2.2, 4.5),
        "gland": rng.uniform(0.9, 1.5),
        "clear": rng.uniform(2.2, 4.0),
        "discohesive": rng.uniform(2.0, 4.0),
    }.get(kind, 9.0)
    lumen = step(form, border + depth, 0.16)
    epithelium = step(form, border, 0.16)

    reach = np.arange(noise.size, dtype=np.float32)
    angle = rng.uniform(0.0, np.pi)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    waves = np.float32(16.0 * patient.scale) * noise.smooth(130.0 * patient.scale)
    waves += np.float32(rng.uniform(1.0, 5.0) * patient.scale) * noise.smooth(44.0 * patient.scale)
    # Stroma wraps around what it carries: part of the across-fibre coordinate is `form` itself.
    waves += np.float32(rng.uniform(0.0, 35.0) * patient.scale) * form
    across = (cos * reach)[:, None] - sin * reach + waves
    along = (sin * reach)[:, None] + cos * reach
    return Ground(kind, form, epithelium, lumen, across, along, border, depth)


def _convolve(light: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """(3, S, S) convolved with a symmetric kernel along both axes, edges repeated."""
    half, size = len(kernel) // 2, light.shape[1]
    taps = kernel.astype(np.float32)
    light = np.pad(light, ((0, 0), (half, half), (half, half)), mode="edge")
    for axis in (1, 2):
        light = light.swapaxes(1, axis)
        out = taps[half] * light[:, half : half + size]
        for k in range(half):
            mirrored = 2 * half - k
            out += taps[k] * (light[:, k : k + size] + light[:, mirrored : mirrored + size])
        light = out.swapaxes(1, axis)
    return light


def _expose(
    rng: np.random.Generator, noise: Noise, dyes: list[np.ndarray], patient: Patient
) -> np.ndarray:
    """Light through the dyes, the optics and the sensor: uint8 (S, S, 3)."""
    size = noise.size
    vectors = -patient.stains.astype(np.float32)
    light = np.empty((3, size, size), np.float32)
    for channel in range(3):
        np.multiply(dyes[0], vectors[0, channel], out=light[channel])
        for dye, vector in zip(dyes[1:], vectors[1:], strict=False):
            light[channel] += dye * vector[channel]
    np.exp(light, out=light)
    place = np.linspace(-1, 1, size, dtype=np.float32)
    tilt = rng.normal(0, 0.018, 2).astype(np.float32)
    bowl = place * place * np.float32(rng.uniform(0, 0.015))
    lamp = (1 + tilt[0] * place - bowl)[:, None] + (tilt[1] * place - bowl)
    reach = np.arange(-3, 4) if patient.blur > 1.0 else np.arange(-2, 3)
    kernel = np.exp(-0.5 * (reach / patient.blur) ** 2)
    kernel /= kernel.sum()
    wide = np.exp(-0.5 * (reach / (patient.blur + 0.8)) ** 2)
    kernel = (1 + patient.sharpening) * kernel - patient.sharpening * wide / wide.sum()
    light = _convolve(light, kernel)
    luminance = noise.crop("grain") * np.float32(0.8 * patient.noise)
    image = np.empty((size, size, 3), np.uint8)
    for channel in range(3):
        plane = light[channel] * (lamp * np.float32(255 * patient.glass[channel]))
        plane += luminance
        plane += noise.crop("grain") * np.float32(0.6 * patient.noise) + np.float32(0.5)
        image[..., channel] = np.clip(plane, 0, 255, out=plane)
    return image
