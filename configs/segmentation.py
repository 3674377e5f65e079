"""The Inception U-Net, trained on real high-resolution images and their nuclear masks.

Source: Juhong et al. 2023 name the network and give nothing of it; ours is a U-Net (Ronneberger et
al. 2015) of inception blocks (Szegedy et al. 2015) with batch normalisation, trained on
cross-entropy and soft Dice.

    python -m histojax.main --config=configs/segmentation.py \\
        --config.data.source=folder:$MONUSEG --config.steps=8000

laptop, one slow CPU core, 55 min 2 s: Dice 0.829 on the 6 MoNuSeg val images, 0.830 with evaluate
--ensemble (classical method 0.756); best at step 5,400. gpu and paper: not run.
"""

from ml_collections import ConfigDict

from configs import base


def segmenter(size: str) -> dict[str, object]:
    """The network's fields, shared with srgan.py and joint.py."""
    network: dict[str, object] = {
        "kind": "inception_unet",  # | unet, se_unet: unet.py, use_net.py
        "depth": 4,
        "features": 64,
        "blocks_per_level": 2,
        "five": "5x5",  # 5x5 | 3x3x2
        "residual": False,
        "fuse": False,
        "norm": "batch",  # batch | instance | none
        "upsampling": "transposed",  # transposed | bilinear
        "dropout": 0.0,
        "stem_stride": 1,
        "heads": ("mask",),  # and any of marker, contour, distance
    }
    if size == "smoke":
        network.update(depth=2, features=8, blocks_per_level=1)
    elif size == "laptop":
        network.update(depth=3, features=48, blocks_per_level=1, stem_stride=2)
    return network


def stride(network: ConfigDict) -> int:
    """Px that the sides of what a segmenter reads are multiples of."""
    return network.stem_stride * 2**network.depth


def augmentation(**changes: object) -> dict[str, object]:
    """Strong, because annotated images are few: shared with joint.py.

    With weaker colours (stain 0.25 and 0.05 alone) the 24 images of MoNuSeg are overfitted: Dice
    on val fell from 0.823 at 3,900 steps to 0.818 at 9,000.
    """
    return base.augmentation(
        stain_sigma=0.4, stain_bias=0.1, brightness=0.1, contrast=0.2, **changes
    )


def get_config(size: str = "laptop") -> ConfigDict:
    """Sizes smoke, laptop, gpu, paper."""
    size = base.check_size(size)
    config = base.base("segmentation", "segmentation")
    config.segmenter = segmenter(size)
    config.threshold = 0.5  # of the foreground probability
    config.loss = {
        "bce_weight": 0.5,
        "dice_weight": 0.5,
        "mse_weight": 0.0,  # squared error of the probability
        "squared_dice": False,
        "smooth": 1.0,  # px added to both sides of the Dice fraction
    }
    config.ema_decay = 0.995
    # How the segmenter learns from its own average (ema_decay), on data.unlabelled too.
    config.teacher = {
        "weight": 0.0,  # of the squared difference of their probabilities; 0: none
        "noise": 0.1,  # standard deviation of the noise of the teacher's image, in [0, 1]
        "noise_limit": 0.2,
        "ramp": 0.3,  # share of the steps over which the weight rises
    }
    # Connected components of the mask; px.
    config.nuclei = dict(min_area=30, max_hole=30)
    config.instances = base.instances()  # the same, where segmenter.heads has a marker
    # Nuclei vary in size between organs and scanners. Resampling needs the host, which would hold
    # an accelerator back.
    zoom = (0.7, 1.4) if size == "laptop" else (1.0, 1.0)
    config.data.augmentation = augmentation(zoom=zoom)
    side = {"smoke": 32, "laptop": 128, "gpu": 256, "paper": 256}[size]
    config.data.crop = base.crop(config, side, stride(config.segmenter))
    config.data.batch_size = {"smoke": 8, "laptop": 8, "gpu": 32, "paper": 16}[size]
    # The best step is picked by nine crops of each of some six images: by fewer it is luck.
    config.eval.crops = 54
    config.steps = {"smoke": 20, "laptop": 900, "gpu": 20_000, "paper": 20_000}[size]
    rate = {"smoke": 2e-3, "laptop": 2e-3, "gpu": 1e-3, "paper": 2e-4}[size]
    config.optimizer = base.optimizer(rate, weight_decay=0.05)
    return base.paced(config, size)
