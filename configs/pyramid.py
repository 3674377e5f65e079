"""The pyramid: tissue for a mask and a mask for tissue at every scale, to train on few labels.

Source: Li et al. 2022 (Med. Image Anal. 75:102251) as their development code has it, without its
defects. Each scale is a run of its own on the frozen ones below: scale_64, then pyramid, which
holds them all. With pyramid.labels=contour the rim of nuclei is a label of its own.

`paper` has that code's networks, batches, epochs (of 331 images) and rates. It does not have its
transposed convolutions, reflection padding and random scales, and reads crops of 512 px where the
source enlarges crops of 448.

    python -m histojax.main --config=configs/pyramid.py --config.data.source=folder:$MONUSEG

laptop: 26 min on one core for the scale of 64 px, 47 min on two for that of 128 (Zen 4): KID and
fidelity to masks in docs/results/pyramid.md. gpu and paper: not run.
"""

from ml_collections import ConfigDict

from configs import base

# Images a step, and steps, by scale. Those of paper are 200, 200, 250 and 300 epochs of 331 images.
_STEPS = {
    "smoke": ((4, 20), (4, 20)),
    "laptop": ((8, 2_000), (4, 3_000)),
    "gpu": ((8, 20_000), (8, 20_000), (8, 20_000), (8, 20_000)),
    "paper": ((8, 8_275), (8, 8_275), (4, 20_687), (3, 33_100)),
}


def get_config(size: str = "laptop") -> ConfigDict:
    """Sizes smoke, laptop, gpu, paper: all scales, the highest last."""
    size = base.check_size(size)
    sizes = {"smoke": (16, 32), "laptop": (64, 128)}.get(size, (64, 128, 256, 512))
    config, lower = None, []
    for k in range(len(sizes)):
        scale = one_scale(size, sizes, k)
        if config is not None:
            scale.init_from.pyramid = config
            lower.append(config)
        config = scale
    base.share(config, tuple(lower))
    for stage in lower:
        base.link(config.pyramid, stage.pyramid, ("labels", "classes", "noise", "base"))
        base.link(config.loss, stage.loss, ("added_weight",))
    # The length of every scale in one place: --config.lengths.scale_64=3000.
    config.lengths = {stage.name: stage.get_ref("steps") for stage in (config, *lower)}
    return config


def one_scale(size: str, sizes: tuple[int, ...], k: int) -> ConfigDict:
    """The scale number k of a pyramid of these sizes."""
    config = base.base(f"scale_{sizes[k]}" if k < len(sizes) - 1 else "pyramid", "pyramid")
    config.pyramid = {
        "sizes": sizes[: k + 1],  # px of a crop at each scale, lowest first
        "labels": "contour",  # mask | contour | classes
        # Number of annotated classes, background included, for labels=classes. Masks are scored
        # as foreground and, from 3 classes on, by class.
        "classes": 0,
        # Share of a scale's difference from its input; 1 at the lowest, except for base=tissue.
        "noise": 0.1 if size == "paper" else 0.5,
        # The image that the lowest scale adds to. colors: the mask in the mean colours that its
        # labels have in the image (in synthesis: in a training image). tissue: the built-in
        # model's tissue for the mask, in these colours; drawn once an image, 1 s for
        # 1000 x 1000 px, and kept up to 1 GiB a process. gray: mid-grey.
        "base": "gray" if size == "paper" else "colors",
        "together": False,  # all scales learn at once, from a trained pyramid
    }
    _add_networks(config, size)
    config.threshold = 0.5  # of the foreground probability
    config.nuclei = dict(min_area=30, max_hole=30)  # px
    config.instances = base.instances()  # where labels=contour
    config.loss = _loss(size)
    config.ema_decay = 0.995
    config.data.augmentation = base.augmentation(zoom=(0.8, 1.25) if size == "laptop" else (1, 1))
    config.data.crop = sizes[-1]
    config.data.batch_size, config.steps = _STEPS[size][k]
    schedule = dict(schedule="linear")
    if size == "paper":
        config.pyramid.labels, config.pyramid.classes = "classes", 4
        config.ema_decay = 0.0
        drop_at = (config.steps * 4 // 5,)
        schedule = dict(schedule="drops", drop_at=drop_at, warmup_steps=0, clip_norm=0.0)
    for name in ("optimizer", "discriminator_optimizer", "segmenter_optimizer"):
        # A generator as fast as its discriminator gets ahead of it, and stops at what deceives it.
        rate = 1e-4 if name == "optimizer" and size in ("laptop", "gpu") else 5e-4
        config[name] = base.optimizer(rate, b1=0.5, b2=0.999, **schedule)
    if size == "laptop":
        config.optimizer.schedule = config.discriminator_optimizer.schedule = "constant"
    return base.paced(config, size)


def _add_networks(config: ConfigDict, size: str) -> None:
    config.generator = {
        "features": {"smoke": 4, "laptop": 24, "gpu": 32, "paper": 64}[size],
        "downsamplings": {"smoke": 1, "laptop": 2, "gpu": 3, "paper": 3}[size],
        "blocks": {"smoke": 1, "laptop": 3, "gpu": 6, "paper": 9}[size],
        "conditioning": "concat",  # | spade
        "norm": "batch",
    }
    first = {"smoke": 4, "laptop": 24}.get(size, 64)
    config.discriminator = {
        "sizes": 1 if size == "smoke" else 2,
        "widths": (first, 2 * first) if size == "smoke" else tuple(first << n for n in range(4)),
        "norm": "instance",
        "spectral_norm": False,
    }
    config.segmenter = {
        "features": 4 if size == "smoke" else 16,
        "growth": {"smoke": 2, "laptop": 8}.get(size, 12),
        "layers": {"smoke": (1,), "laptop": (2, 3)}.get(size, (4, 5, 7)),
        "bottom": {"smoke": 1, "laptop": 4}.get(size, 10),
        "dropout": 0.2,
    }


def _loss(size: str) -> dict[str, object]:
    # pix2pixHD's weights of VGG19's layers.
    layers = dict(relu1_1=1 / 32, relu2_1=1 / 16, relu3_1=1 / 8, relu4_1=1 / 4, relu5_1=1.0)
    return {
        # Twice the source's weight, whose least squares are not halved; so is the mask's.
        "adversarial": {"kind": "lsgan", "weight": 1.0},
        # Likeness to the one real image out of many that a mask could have, in activations or
        # pixels, keeps a laptop's few steps at flat colours.
        "matching_weight": 0.0 if size == "laptop" else 10.0,
        # Of the mean and deviation of each label's colours (of ground and nuclei for
        # base=tissue), which a discriminator that normalises its maps does not see.
        "moments_weight": 0.0 if size == "paper" else 10.0,
        # Of each scale's mean absolute difference from its input. With base=tissue it keeps
        # structures of the tissue that few training images show.
        "added_weight": 0.0,
        "mask_adversarial_weight": 0.06,
        "mask_matching_weight": 10.0,
        "pixel": "mse",
        # The source's 0.1, on images in [-1, 1].
        "pixel_weight": 0.0 if size == "laptop" else 0.4,
        "features": {
            "network": "vgg19",
            "path": "",
            "sha256": "",
            "layers": layers,
            "kind": "l1",
            "weight": 10.0 if size in ("gpu", "paper") else 0.0,
        },
    }
