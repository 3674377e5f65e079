"""A picture that is hard to resample, and Pillow's answer to it."""

import numpy as np
import scipy.ndimage
from PIL import Image

PILLOW = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "box": Image.Resampling.BOX,
    "lanczos3": Image.Resampling.LANCZOS,
}


def picture(height, width, seed=0):
    """Smooth structure, hard edges and noise, so that kernels overshoot and borders matter."""
    rng = np.random.default_rng(seed)
    image = scipy.ndimage.gaussian_filter(rng.random((height, width, 3)), (2, 2, 0))
    image = (image - image.min()) / np.ptp(image) * 255
    image[height // 3 : height // 2, width // 4 : width // 2] = 0
    image[: height // 5] = 255
    return np.clip(image + rng.normal(0, 10, image.shape), 0, 255).astype(np.uint8)


def pillow(image, height, width, kernel):
    return np.asarray(Image.fromarray(image).resize((width, height), PILLOW[kernel]))
