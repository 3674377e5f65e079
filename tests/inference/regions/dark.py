"""A run whose network finds what is dark, and slides of dark nuclei on pink tissue."""

import pathlib
from types import SimpleNamespace

import numpy as np
import scipy.ndimage
import tifffile

from histojax.inference import tiled
from histojax.runs import workdirs
from tests import tiny

GLASS, PINK, PURPLE = (250, 249, 251), (236, 190, 215), (90, 55, 130)


_ABLE = {"segmentation": {"segment"}, "generator": {"enhance"}, "joint": {"enhance", "segment"}}


def run(name="segmentation", **meta):
    """A run without weights: all that slides ask of it beside its network."""
    known = {"thresholds": {"mask": 0.5}, "mpp_in": None, "mpp_out": None}
    segmenter = SimpleNamespace(heads=("mask",))
    able = frozenset(_ABLE[name])
    stage = SimpleNamespace(capabilities=able, instances=None, segmenter=segmenter)
    state = SimpleNamespace(params={})
    place = pathlib.Path("runs/dark")
    return workdirs.Run(place, tiny.config(name), stage, state, 3, known | meta)


class Stop(Exception):
    """What ends a process between two regions."""


class Network:
    """Finds what is dark in means of 5 x 5 px; enlarges each px `scale` times where it enhances.

    Attributes:
        windows: how many windows it has seen.
        stop_after: windows after which it stops, None for never.
    """

    def __init__(self, scale=1, *, enhances=False, segments=True, stop_after=None):
        self.scale, self.enhances, self.segments = scale, enhances, segments
        self.windows, self.stop_after = 0, stop_after

    def __call__(self, images):
        if self.stop_after is not None and self.windows >= self.stop_after:
            raise Stop
        self.windows += len(images)
        gray = images.astype(np.float32).mean(-1, keepdims=True)
        mean = scipy.ndimage.uniform_filter(gray, (1, 5, 5, 1), mode="constant")
        outputs = {}
        if self.segments:
            mask = 1 / (1 + np.exp((mean - 150) / 16))
            outputs["mask"] = mask.repeat(self.scale, 1).repeat(self.scale, 2)
        if self.enhances:
            outputs["sr"] = images.repeat(self.scale, 1).repeat(self.scale, 2)
        return outputs

    @property
    def tiled(self):
        parts = None
        if self.enhances and self.segments:
            parts = (Network(self.scale, enhances=True, segments=False).tiled, Network().tiled)
        return tiled.TiledNetwork(self, 2, stride=4, scale=self.scale, largest=1024, parts=parts)


def tissue(height, width, nuclei, *, glass=None):
    """An image uint8 (H, W, 3): pink, from column `glass` on white; nuclei are (y, x, radius)."""
    image = np.full((height, width, 3), PINK, np.uint8)
    if glass is not None:
        image[:, glass:] = GLASS
    for y, x, radius in nuclei:
        rows = slice(max(0, int(y - radius)), int(y + radius) + 2)
        columns = slice(max(0, int(x - radius)), int(x + radius) + 2)
        part = image[rows, columns]
        grid = np.mgrid[: part.shape[0], : part.shape[1]]
        away = np.hypot(grid[0] + rows.start - y, grid[1] + columns.start - x)
        part[away <= radius] = PURPLE
    return image


def nuclei(height, width, *, step=40, seed=0):
    """Places and radii of nuclei that do not touch, one in each square of `step` px."""
    rng = np.random.default_rng(seed)
    places = []
    for y in range(step // 2, height - step // 2, step):
        for x in range(step // 2, width - step // 2, step):
            down, across = rng.uniform(-7, 7, 2)
            places.append((y + down, x + across, rng.uniform(5, 9)))
    return places


def write(path, image, *, mpp=None, tile=128, **options):
    """A tiled TIFF without smaller levels, deflated."""
    if mpp is not None:
        options |= {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    options = {"compression": "adobe_deflate", **options}
    tifffile.imwrite(path, image, photometric="rgb", tile=(tile, tile), metadata=None, **options)
    return path


def damage(path, index, count=200):
    """Overwrites `count` bytes inside a tile of a TIFF."""
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        offset, size = page.dataoffsets[index], page.databytecounts[index]
    data, count = bytearray(path.read_bytes()), min(count, size)
    start = offset + (size - count) // 2
    data[start : start + count] = bytes((37 * k + 11) % 256 for k in range(count))
    path.write_bytes(data)
