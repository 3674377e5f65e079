"""Random fields for synthetic tissue: periodic textures of a seed, smooth fields of a patch."""

import functools

import numpy as np
from numpy.random import SeedSequence

STREAM_BANKS, STREAM_PATIENT, STREAM_PATCH = 0, 1, 2
BANK = 512


def generator(seed: int, stream: int, index: int = 0) -> np.random.Generator:
    """The random stream of one thing (the banks, a patient, a patch) of a seed."""
    return np.random.Generator(np.random.PCG64(SeedSequence((seed, stream, index))))


@functools.lru_cache(maxsize=2)
def banks(seed: int) -> dict[str, np.ndarray]:
    """Periodic textures, (512, 512) float32 repeated once along each axis, so a crop is a view.

    "coarse", "mid", "fine", "chromatin", "grain" and "fibre" have unit variance; "cleft" is in
    [0, 1]. Wavelengths are in px of 0.25 um; fibres run along x.
    """
    rng = generator(seed, STREAM_BANKS)
    fy = np.fft.fftfreq(BANK)[:, None]
    fx = np.fft.rfftfreq(BANK)[None, :]
    radius = np.hypot(fy, fx)

    def band(frequency: np.ndarray, wavelength: float, octaves: float = 0.45) -> np.ndarray:
        return np.exp(-0.5 * (np.log(np.maximum(frequency, 1e-6) * wavelength) / octaves) ** 2)

    def texture(amplitude: np.ndarray) -> np.ndarray:
        white = np.fft.rfft2(rng.standard_normal((BANK, BANK)))
        field = np.fft.irfft2(white * amplitude, (BANK, BANK))
        field -= field.mean()
        return (field / field.std()).astype(np.float32)

    strands = [
        texture(np.exp(-((fx * along) ** 2)) * band(np.abs(fy), across, 0.5))
        for along, across in ((120.0, 34.0), (90.0, 13.0), (50.0, 6.5))
    ]
    fibre = 0.6 * strands[0] + 0.6 * strands[1] + 0.45 * strands[2]
    power = np.maximum(radius, 1e-6) ** -1.0 * (radius > 1 / 24.0) * np.exp(-((radius * 3.6) ** 2))
    chromatin = texture(power)
    # Heterochromatin stands out as clumps on a paler ground: the field is skewed.
    chromatin = chromatin + 0.3 * (chromatin**2 - 1)
    fields = {
        "coarse": texture(band(radius, 38.0)),
        "mid": texture(band(radius, 16.0)),
        "fine": texture(band(radius, 7.0)),
        "chromatin": chromatin / chromatin.std(),
        "grain": texture(np.exp(-((radius / 0.35) ** 2))),
        "fibre": fibre / fibre.std(),
        # Clefts lie where two sheets of collagen meet, on zero lines of a strand field.
        "cleft": np.exp(-((strands[0] / 0.14) ** 2)) * (strands[1] > -0.5),
    }
    return {name: np.tile(field.astype(np.float32), (2, 2)) for name, field in fields.items()}


class Noise:
    """Random fields of one patch of side S: crops of the banks, and smooth fields of its own."""

    def __init__(self, rng: np.random.Generator, fields: dict[str, np.ndarray], size: int):
        self.rng, self.fields, self.size = rng, fields, size

    def crop(self, name: str) -> np.ndarray:
        """A crop of a bank at a random place, (S, S) float32; a view, not to be written to."""
        return self.crops(name, 1, self.size, self.size)[0]

    def crops(self, name: str, count: int, height: int, width: int) -> list[np.ndarray]:
        """Crops of a bank at `count` random places, (height, width) float32 each; views."""
        starts = self.rng.integers(0, BANK, (count, 2))
        field = self.fields[name]
        if max(height, width) > BANK:  # a square fits from any place of the period on
            times = -(-max(height, width) // BANK) + 1
            field = np.tile(field[:BANK, :BANK], (times, times))
        return [field[y : y + height, x : x + width] for y, x in starts]

    def smooth(self, wavelength: float) -> np.ndarray:
        """A cubic B-spline of random knots `wavelength` / 2 px apart, (S, S), unit variance."""
        step = max(wavelength / 2.0, 2.0)
        count = int(np.ceil(self.size / step)) + 4
        knots = self.rng.standard_normal((count, count)).astype(np.float32)
        place = np.arange(self.size) / step + self.rng.random()
        base = np.floor(place).astype(np.int64)
        t = (place - base).astype(np.float32)
        # 0.69 is the root of the mean sum of squared weights along one axis.
        weights = np.stack(
            [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]
        ) / np.float32(6.0 * 0.69)
        rows = sum(weights[k] * knots[:, base + k] for k in range(4))
        field = weights[0][:, None] * rows[base]
        for k in range(1, 4):
            field += weights[k][:, None] * rows[base + k]
        return field


def step(value: np.ndarray, center: float | np.floating, width: float | np.floating) -> np.ndarray:
    """A smooth step from 0 to 1 about `center`, `width` from foot to shoulder."""
    t = (value - np.float32(center - width / 2)) * np.float32(1.0 / width)
    np.clip(t, 0.0, 1.0, out=t)
    return t * t * (3 - 2 * t)


def sample(field: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """`field` at the pixels nearest to (y, x), which may lie outside: the edge is repeated."""
    last = field.shape[0] - 1
    return field[np.clip(np.rint(y), 0, last).astype(int), np.clip(np.rint(x), 0, last).astype(int)]
