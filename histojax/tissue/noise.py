"""Random fields for synthetic tissue: periodic textures of a seed, smooth fields of a patch."""

import functools

import numpy as np
from numpy.random import SeedSequence
from PIL import Image
from scipy import ndimage

STREAM_BANKS, STREAM_PATIENT, STREAM_PATCH, STREAM_SCALE = 0, 1, 2, 3
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
    """Random fields of one patch of side S: crops of the banks, and smooth fields of its own.

    A px of the banks is `magnification` px. "chromatin", "fine" and "fibre" then get finer octaves,
    `detail` times as strong, from the bank as it is: without them large nuclei look empty.
    """

    def __init__(self, rng: np.random.Generator, fields: dict, size: int, magnification: float = 1):
        self.rng, self.fields, self.size, self.magnification = rng, fields, size, magnification
        self.detail = np.float32(0.7 * min(np.log(magnification) / np.log(4), 1))  # no jump at 1

    def crop(self, name: str) -> np.ndarray:
        """A crop of a bank at a random place, (S, S) float32; a view, not to be written to."""
        return self.crops(name, 1, self.size, self.size)[0]

    def crops(self, name: str, count: int, height: int, width: int) -> list[np.ndarray]:
        """Crops of a bank at `count` random places, (height, width) float32 each, maybe views."""
        starts = self.rng.integers(0, BANK, (count, 2))
        field = self.fields[name]
        if max(height, width) > BANK:  # a square fits from any place of the period on
            times = -(-max(height, width) // BANK) + 1
            field = np.tile(field[:BANK, :BANK], (times, times))
        crops = [field[y : y + height, x : x + width] for y, x in starts]
        if self.magnification == 1 or name == "grain":  # which is the sensor's, whatever it sees
            return crops
        part = (0, 0, width / self.magnification, height / self.magnification)
        images = (Image.fromarray(np.ascontiguousarray(crop)) for crop in crops)
        bicubic = Image.Resampling.BICUBIC
        large = [np.asarray(image.resize((width, height), bicubic, part)) for image in images]
        if name in ("coarse", "mid"):  # which bend borders: finer octaves would fold them
            return large
        return [self.with_detail(*pair) for pair in zip(large, crops, strict=True)]

    def with_detail(self, large: np.ndarray, detail: np.ndarray) -> np.ndarray:
        """Two fields of unit variance as one, of which `detail` is the weaker."""
        return (large + self.detail * detail) / np.sqrt(1 + self.detail**2)

    def strands(self, name: str, v: np.ndarray, u: np.ndarray, offset: np.ndarray) -> np.ndarray:
        """A bank at places (v, u) across and along its fibres, px of it from `offset` on."""
        if self.magnification > 1:
            field, place = self.fields[name][:BANK, :BANK], (v + offset[0], u + offset[1])
            return ndimage.map_coordinates(field, place, order=1, mode="grid-wrap")
        v, u = v.astype(np.int32) + offset[0], u.astype(np.int32) + offset[1]
        return self.fields[name].ravel().take((v & (BANK - 1)) * (2 * BANK) + (u & (BANK - 1)))

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
