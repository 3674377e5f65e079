"""The pyramid: tissue for a mask and a mask for tissue at every scale, to train on few labels.

Source: Li et al. 2022 (Med. Image Anal. 75:102251) as their development code has it, without its
defects. Each scale is a run of its own on the frozen ones below: scale_64, then pyramid, which
holds them all. Where nuclei are told apart their rim is a label of its own.

    python -m histojax.main --config=configs/pyramid.py --config.data.source=folder:$MONUSEG

Not run.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base

SIZES = ("smoke", "laptop", "gpu")


def get_config(size: str = "laptop") -> ConfigDict:
    """Sizes smoke, laptop, gpu: all scales, the highest last."""
    size = base.check_size(size, SIZES)
    sizes = {"smoke": (16, 32), "laptop": (64, 128), "gpu": (64, 128, 256, 512)}[size]
    config, lower = None, []
    for k in range(len(sizes)):
        scale = one_scale(size, sizes, k)
        if config is not None:
            scale.init.pyramid = config
            lower.append(config)
        config = scale
    base.share(config, tuple(lower))
    for stage in lower:
        for field in ("labels", "classes", "noise"):
            stage.pyramid[field] = config.pyramid.get_ref(field)
    # The length of every scale in one place: --config.lengths.scale_64=3000.
    config.lengths = ConfigDict({config.name: config.get_ref("steps")})
    for stage in lower:
        config.lengths[stage.name] = stage.get_ref("steps")
    return config


def one_scale(size: str, sizes: tuple[int, ...], k: int) -> ConfigDict:
    """The scale number k of a pyramid of these sizes."""
    config = base.base(f"scale_{sizes[k]}" if k < len(sizes) - 1 else "pyramid", "pyramid")
    config.pyramid = ConfigDict(
        {
            "sizes": sizes[: k + 1],  # px of a crop at each scale, lowest first
            "labels": "contour",  # mask | contour | classes
            "classes": 0,  # of the annotation, background included, for classes
            "noise": 0.1,  # of what a scale adds to the one below; 1 at the lowest
            "together": False,  # whether all scales learn at once, from a trained pyramid
        }
    )
    config.generator = ConfigDict(
        {
            "features": {"smoke": 4, "laptop": 24, "gpu": 32}[size],
            "downsamplings": {"smoke": 1, "laptop": 2, "gpu": 3}[size],
            "blocks": {"smoke": 1, "laptop": 3, "gpu": 6}[size],
            "conditioning": "concat",  # | spade
            "norm": "batch",
        }
    )
    first = {"smoke": 4, "laptop": 24, "gpu": 64}[size]
    config.discriminator = ConfigDict(
        {
            "sizes": {"smoke": 1, "laptop": 2, "gpu": 2}[size],
            "widths": (first, 2 * first)
            if size == "smoke"
            else tuple(first << n for n in range(4)),
            "norm": "instance",
            "spectral_norm": False,
        }
    )
    config.segmenter = ConfigDict(
        {
            "features": {"smoke": 4, "laptop": 16, "gpu": 16}[size],
            "growth": {"smoke": 2, "laptop": 8, "gpu": 12}[size],
            "layers": {"smoke": (1,), "laptop": (2, 3), "gpu": (4, 5, 7)}[size],
            "bottom": {"smoke": 1, "laptop": 4, "gpu": 10}[size],
            "dropout": 0.2,
        }
    )
    config.threshold = 0.5  # of the foreground probability
    config.nuclei = ConfigDict({"min_area": 30, "max_hole": 30})  # px
    config.instances = base.instances()  # where labels=contour
    config.loss = ConfigDict(
        {
            # Twice the source's weight, whose least squares are not halved; so is the mask's.
            "adversarial": {"form": "lsgan", "weight": 1.0},
            "matching_weight": 10.0,
            "mask_adversarial_weight": 0.06,
            "mask_matching_weight": 10.0,
            "pixel": "mse",
            "pixel_weight": 0.1,
            "features": {
                "network": "vgg19",
                "path": "",
                "sha256": "",
                "layers": {"relu1_2": 0.1, "relu2_2": 0.1, "relu3_4": 1.0, "relu4_4": 1.0},
                "form": "l1",
                "weight": 10.0 if size == "gpu" else 0.0,
            },
        }
    )
    config.ema_decay = 0.995
    config.data.augmentation = base.augmentation(zoom=(0.8, 1.25) if size == "laptop" else (1, 1))
    config.data.crop = sizes[-1]
    config.data.batch_size = {"smoke": 4, "laptop": 8, "gpu": 8}[size]
    config.steps = {"smoke": 20, "laptop": 2_000, "gpu": 20_000}[size]
    rate = {"smoke": 5e-4, "laptop": 5e-4, "gpu": 5e-4}[size]
    for name in ("optimizer", "discriminator_optimizer", "segmenter_optimizer"):
        config[name] = base.optimizer(rate, b1=0.5, b2=0.999, schedule="linear")
    return base.paced(config, size)
