"""Simulated patients: what all patches of one slide of synthetic tissue share."""

import dataclasses
import functools

import numpy as np

from histojax.tissue import noise as tissue_noise

KINDS = ("sheet", "gland", "clear", "stroma", "discohesive", "fat")

# Optical density of one unit of dye in R, G, B, of unit length. Measured on scanned slides the two
# dyes lie closer together than Ruifrok and Johnston's (2001) vectors.
_HAEMATOXYLIN = np.array([0.56, 0.72, 0.40])
_EOSIN = np.array([0.15, 0.84, 0.52])
_HAEMOGLOBIN = np.array([0.08, 0.76, 0.65])


@dataclasses.dataclass(frozen=True)
class Patient:
    """What the patches of one simulated patient share; lengths in px, dyes in units of density."""

    stains: np.ndarray  # (3, 3): dye, RGB
    glass: np.ndarray  # (3,): light that passes where there is no tissue, in [0, 1]
    kinds: np.ndarray  # (len(KINDS),): how often each kind of tissue is met
    scale: float  # px of nuclei and architecture against those that are usual at 0.25 um/px
    radius: float  # mean nuclear radius
    pleomorphism: float  # standard deviation of log radius
    elongation: float  # mean ratio of the axes of epithelial nuclei
    filling: float  # nuclear share of epithelium
    nuclear: float  # haematoxylin of a nucleus
    nuclear_spread: float  # standard deviation of its logarithm
    faint: float  # share of nuclei that lie half out of the section
    vesicular: float  # 0 solid to 1 pale inside a dark membrane
    clumping: float  # contrast of the chromatin
    nucleoli: float  # probability of a nucleolus
    cytoplasm: tuple[float, float]  # haematoxylin, eosin
    stroma: tuple[float, float]  # haematoxylin, eosin
    texture: float  # contrast of cytoplasm and stroma
    cohesion: float  # 0 cells parted by clefts to 1 no cell borders
    halo: float  # probability of a clear ring around a nucleus
    overlap: float  # least distance of two nuclei over the sum of their radii
    blur: float  # sigma of the optics
    sharpening: float  # strength of the scanner's unsharp mask
    noise: float  # standard deviation in grey levels
    magnification: float = 1.0  # px in 0.25 um, which `scale` and `radius` hold too


@functools.lru_cache(maxsize=256)
def draw_patient(seed: int, number: int, magnification: float = 1.0) -> Patient:
    """The patient `number` (0 or more) of `seed`; see `Patient` for the units."""
    rng = tissue_noise.generator(seed, tissue_noise.STREAM_PATIENT, number)
    normal, uniform = rng.standard_normal, rng.uniform
    haematoxylin = _HAEMATOXYLIN + 0.025 * normal(3)
    eosin = _EOSIN + np.array([0.05, 0.025, 0.03]) * normal(3)
    # Eosin ranges from salmon to magenta, haematoxylin from violet to blue.
    eosin += rng.normal(0.15, 0.5) * np.array([-0.03, -0.05, 0.09])
    haematoxylin += normal() * np.array([0.03, 0.0, -0.03])
    stains = np.stack([haematoxylin, eosin, _HAEMOGLOBIN])
    stains /= np.linalg.norm(stains, axis=1, keepdims=True)

    # Most slides are stained alike; some are thick and dark, grey-blue with little eosin, or pale.
    style = rng.choice(4, p=(0.68, 0.15, 0.08, 0.09))
    texture = uniform(0.75, 1.4)
    strength = np.exp(0.24 * normal())
    nuclear = 1.42 * strength * np.exp(0.12 * normal())
    cytoplasm = np.array([0.28, 0.54]) * strength * np.exp(np.array([0.35, 0.30]) * normal(2))
    stroma = np.array([0.13, 0.70]) * strength * np.exp(np.array([0.30, 0.25]) * normal(2))
    blur, sharpening = uniform(0.6, 0.95), uniform(0.1, 1.0)
    if style == 1:
        nuclear, cytoplasm, stroma = nuclear * 1.5, cytoplasm * (3.2, 1.0), stroma * (3.8, 0.8)
        texture *= 0.75
        blur = uniform(1.1, 2.0)
    elif style == 2:
        nuclear, cytoplasm, stroma = nuclear * 0.8, cytoplasm * (1.2, 0.35), stroma * (1.8, 0.35)
    elif style == 3:
        nuclear, cytoplasm, stroma = nuclear * 0.5, cytoplasm * (0.45, 0.95), stroma * (0.4, 0.8)

    # However dark the slide, nuclei stay darker than what surrounds them.
    cytoplasm[0] = min(cytoplasm[0], 0.55 * nuclear)
    stroma[0] = min(stroma[0], 0.45 * nuclear)

    scale = magnification * (uniform(0.37, 0.56) if rng.random() < 0.15 else uniform(0.88, 1.1))
    return Patient(
        stains=stains,
        glass=np.clip(0.955 + 0.015 * normal(3) + 0.02 * normal(), 0.88, 1.0),
        kinds=rng.dirichlet((1.0, 1.0, 0.4, 0.35, 0.22, 0.05)),
        scale=scale,
        radius=13.7 * scale * np.exp(0.16 * normal()),
        pleomorphism=uniform(0.10, 0.28),
        elongation=1.12 + abs(0.22 * normal()),
        filling=uniform(0.24, 0.50),
        nuclear=float(nuclear),
        nuclear_spread=uniform(0.14, 0.40),
        faint=uniform(0.05, 0.45),
        vesicular=rng.beta(1.1, 1.1),
        clumping=uniform(0.12, 0.38),
        nucleoli=rng.beta(0.8, 1.2),
        cytoplasm=tuple(cytoplasm),
        stroma=tuple(stroma),
        texture=texture,
        cohesion=rng.beta(1.5, 1.0),
        halo=rng.beta(0.5, 1.5),
        overlap=uniform(0.70, 0.95),
        blur=blur,
        sharpening=sharpening,
        noise=uniform(0.8, 2.2),
        magnification=magnification,
    )
