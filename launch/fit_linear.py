"""Fits the linear filter, a baseline of every table of enhanced images, to a data set.

    python -m launch.fit_linear --data=folder:$MONUSEG

writes the coefficients of histojax.imaging.enlargement, in a minute or two. They solve the normal
equations over all images, their four-fold bicubic reductions and their three channels.
"""

import pathlib
from collections.abc import Iterable, Sequence

import numpy as np
from absl import flags
from safetensors.numpy import save_file

from histojax import cli, files
from histojax.data.sources import specs
from histojax.imaging import enlargement, resampling

_SIDE, _SCALE = 11, enlargement.LINEAR_SCALE
_DATA = flags.DEFINE_string("data", None, "SPEC of images. Example: --data=folder:/data/monuseg")
_SPLIT = flags.DEFINE_string("split", "train", "Split to fit to. Example: --split=all")
_OUTPUT = flags.DEFINE_string(
    "output",
    "histojax/zoo/linear-x4.safetensors",
    "File of the coefficients. Example: linear.safetensors",
)


def fit(images: Iterable[np.ndarray]) -> np.ndarray:
    """The kernels (4, 4, 11, 11) of least squares over images uint8 (H, W, 3), float32."""
    taps, phases, radius = _SIDE**2, _SCALE**2, _SIDE // 2
    # Sums of products of whole numbers, exact in float64.
    products, targets = np.zeros((taps, taps)), np.zeros((taps, phases))
    for image in images:
        height, width = (side // _SCALE for side in image.shape[:2])
        hr = image[: height * _SCALE, : width * _SCALE]
        margins = ((radius, radius), (radius, radius), (0, 0))
        lr = np.pad(resampling.downsample(hr, _SCALE), margins, mode="reflect")
        windows = np.lib.stride_tricks.sliding_window_view(lr, (_SIDE, _SIDE), (0, 1))
        blocks = hr.reshape(height, _SCALE, width, _SCALE, -1).transpose(4, 0, 2, 1, 3)
        for channel, block in enumerate(blocks):
            seen = windows[:, :, channel].reshape(-1, taps).astype(np.float64)
            products += seen.T @ seen
            targets += seen.T @ block.reshape(-1, phases)
    kernels = np.linalg.lstsq(products, targets)[0].T
    return np.ascontiguousarray(kernels.reshape(_SCALE, _SCALE, _SIDE, _SIDE), np.float32)


def main(argv: Sequence[str]) -> None:
    """Fits and writes."""
    del argv
    source = specs.open_source(str(_DATA.value), split=_SPLIT.value)
    kernels = fit(source[index]["hr"] for index in range(len(source)))
    output = pathlib.Path(_OUTPUT.value)
    with files.atomic_path(output) as path:
        save_file({"kernels": kernels}, path)
    print(f"{output}: fitted to {len(source)} images")


if __name__ == "__main__":
    flags.mark_flags_as_required(["data"])
    cli.run(main)
