"""What every image format shares on its way to RGB: sample conversions and refusals."""

import contextlib
import functools
import logging
import os
import pathlib
import sys
from collections.abc import Iterator

import numpy as np

from histojax.errors import UserError

_log = logging.getLogger(__name__)


def oriented_size(height: int, width: int, orientation: int) -> tuple[int, int]:
    """Returns the upright (height, width) of an image of a stored size."""
    return (width, height) if orientation >= 5 else (height, width)


def orient(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turns stored pixels (H, W, ...) upright (EXIF 2.3, tag 274; TIFF 6.0, Orientation)."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def eight_bits(path: pathlib.Path, samples: np.ndarray) -> np.ndarray:
    """Converts full-range uint16 samples v to uint8 round(v / 257).

    Raises:
        UserError: where no colour sample reaches 2**15: the samples are likely 10 to 14-bit.
    """
    colors = samples[..., :-1] if samples.ndim == 3 and samples.shape[2] in (2, 4) else samples
    if colors.max() < 2**15:
        raise UserError(
            f"{path} holds 16-bit samples up to {colors.max()} only, so the value of white is "
            "unknown (the full range ends at 65535): convert it to 8-bit RGB"
        )
    return ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)


def flatten(path: pathlib.Path, pixels: np.ndarray, premultiplied: bool = False) -> np.ndarray:
    """Returns RGB (H, W, 3) from uint8 (H, W) or (H, W, 1 to 4), composited over white.

    An even number of channels ends in alpha; `premultiplied` colours have been multiplied by it.
    """
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    count = 1 if pixels.shape[2] < 3 else 3  # of colours; what follows is alpha
    colors, alpha = pixels[..., :count], pixels[..., count:]
    if (alpha < 255).any():
        log_once(path, "is transparent in places: composited over white")
        clear = 255 - alpha.astype(np.uint16)
        if premultiplied:
            colors = np.minimum(colors + clear, 255)
        else:
            # At most 255 * 255 + 127, which uint16 holds.
            colors = (colors.astype(np.uint16) * alpha + 255 * clear + 127) // 255
    shape = (*pixels.shape[:2], 3)
    return np.ascontiguousarray(np.broadcast_to(colors, shape), np.uint8)


def without_alpha(path: pathlib.Path, samples: np.ndarray) -> np.ndarray:
    """Drops the last band, an alpha of 0 in the whole image: no image is meant to be unseen."""
    log_once(path, "has an alpha of 0 everywhere: read as opaque")
    return samples[..., :-1]


@functools.cache
def log_once(path: pathlib.Path, what: str, level: int = logging.WARNING) -> None:
    """Warns of something about a file, or says it, the first time in this process."""
    _log.log(level, "%s %s", path, what)


def truncated(path: pathlib.Path) -> UserError:
    """Returns the refusal of a file that ends early."""
    return UserError(f"{path} is truncated (the file ends before its image): copy it again")


@contextlib.contextmanager
def refused_if_damaged(path: pathlib.Path) -> Iterator[None]:
    """Turns what a parser or decoder raises within into the refusal of the file.

    Malformed files make Pillow, tifffile and the codecs raise nearly every kind of exception.
    """
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if "truncated" in reason.lower():
            raise truncated(path) from error
        raise UserError(
            f"{path} cannot be decoded, it is damaged or of an unusual kind ({reason}): "
            "copy or export it again"
        ) from error


def check_pixels(path: pathlib.Path, pixels: int, max_pixels: int, what: str = "") -> None:
    """Refuses to decode more pixels at once than the caller allows."""
    if pixels > max_pixels:
        raise UserError(
            f"{path} needs {what}{pixels} pixels decoded at once, and the limit is {max_pixels}: "
            "save it as a tiled 8-bit TIFF and read it by region, or raise max_pixels"
        )


def whole_numbers(path: pathlib.Path, values: np.ndarray) -> np.ndarray:
    """Returns float labels as int64, and others as they are.

    Raises:
        UserError: where some are no whole numbers, or their type may have rounded two into one.
    """
    if values.dtype.kind != "f":
        return values
    whole = np.isfinite(values) & (values == np.round(values))
    if not whole.all():
        raise UserError(
            f"{path} holds the {values.dtype} value {values[~whole][0]:g}, and labels are whole "
            "numbers: save them as uint16 PNG or uint32 TIFF"
        )
    exact = 2 ** (np.finfo(values.dtype).nmant + 1)
    if values.max() >= exact:
        raise UserError(
            f"{path} holds the label {values.max():.0f} as {values.dtype}, which is exact "
            f"below {exact} only: save the labels as uint32 TIFF"
        )
    return values.astype(np.int64)


def readable_name(path: pathlib.Path) -> str:
    """A file's name without its ending, or UserError where its bytes are not text."""
    try:
        path.stem.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"the file name {os.fsencode(path.name)!r} in {path.parent} is not text in "
            f"{sys.getfilesystemencoding()}: rename the file, or set a UTF-8 locale"
        ) from None
    return path.stem
