"""Enhancers without a network: the baselines that a trained one is read against.

Each is a function of images, uint8 (..., h, w, 3), and the scale factor r; it gives uint8
(..., h r, w r, 3), a NumPy or a JAX array as it got. Its halo says how many input px around it
decide an output pixel.
"""

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from histojax.errors import UserError
from histojax.imaging import resampling

# The coefficients of `linear`: "kernels" float32 (4, 4, 11, 11), an output phase's (y, x) first.
# `python -m launch.fit_linear --data=folder:$MONUSEG` makes them from MoNuSeg's 24 training images,
# whose licence, CC BY-NC-SA 4.0, they carry.
LINEAR_FILE = pathlib.Path(__file__).parents[1] / "zoo" / "linear-x4.safetensors"
LINEAR_SCALE = 4
ROUNDS = 20


def bicubic(lr: Any, scale: int) -> Any:
    """Pillow's bicubic enlargement; halo 2 px."""
    return resampling.upsample(lr, scale, "bicubic")


def lanczos(lr: Any, scale: int) -> Any:
    """Pillow's Lanczos enlargement, of three lobes; halo 3 px."""
    return resampling.upsample(lr, scale, "lanczos3")


def back_projection(lr: Any, scale: int) -> Any:
    """Bicubic enlargement whose reduction is the input, nearly; halo 82 px.

    x <- x + up(lr - down(x)), 20 times (Irani and Peleg 1991), in floating point. Up and down are
    Pillow's bicubic, the latter that of the degradation `bicubic`. A reduction and an enlargement
    reach 2 px each, so that a round adds 4 px to the halo.
    """
    lr = lr.astype(np.float32)
    x = resampling.upsample(lr, scale)
    for _ in range(ROUNDS):
        x = x + resampling.upsample(lr - resampling.downsample(x, scale), scale)
    return resampling.round_to_uint8(x)


def linear(lr: Any, scale: int) -> Any:
    """The linear filter of 11 x 11 px that enlarges MoNuSeg's training images best; halo 5 px.

    Each of the 16 places of an output pixel in its input pixel has its own kernel; the channels
    share them. Borders are reflected.

    Raises:
        UserError: the scale is not 4.
    """
    check_scale("linear", scale)
    from histojax.models import resizing  # JAX, which tables with these names do without

    sharp = resizing.filtered(lr.astype(np.float32), _kernels())
    return resampling.round_to_uint8(lr.__array_namespace__().asarray(sharp))


@functools.cache
def _kernels() -> np.ndarray:
    return load_file(LINEAR_FILE)["kernels"]


ENHANCERS: Mapping[str, Callable[[Any, int], Any]] = {
    "bicubic": bicubic,
    "lanczos": lanczos,
    "back_projection": back_projection,
    "linear": linear,
}


def names(scale: int) -> list[str]:
    """The enhancers that enlarge by a scale factor."""
    return [name for name in ENHANCERS if name != "linear" or scale == LINEAR_SCALE]


def check_scale(name: str, scale: int) -> None:
    """Raises UserError unless the enhancer of that name enlarges by a scale factor."""
    if name not in names(scale):
        raise UserError(
            f"the {name} enhancer enlarges x{LINEAR_SCALE} alone, and not x{scale}: take one of "
            f"{', '.join(names(scale))}"
        )
