"""USE-Net: every nucleus its own label, by a mask, its marker and a watershed.

Source: Rahmon, Toubal and Palaniappan 2021 (IEEE AIPR), an SE-ResNet-50 U-Net with maps of the mask
and of eroded nuclei. `paper` is as they publish it, `paper_code` as they code it where the two
differ: epochs, the form of Dice, flips, truncated labels. Both read 992-px crops where the source
resizes 1000 px to 992, and so need images of that size; inference reads an image whole with a
margin, so that squeeze-and-excitation pools over somewhat more. laptop and gpu are our own:
half-pixel resizing, stronger colour variation (laptop: size and turns too), cosine decay, averaged
weights, the depth in a nucleus as a third map, a watershed in each component, fitted to the val
split.

    python -m histojax.main --config=configs/use_net.py --config.data.source=folder:$MONUSEG

laptop, one CPU core, 59 min 35 s: AJI 0.633, Dice 0.834 on the 6 val images of MoNuSeg, 0.620 and
0.799 on TNBC, which it has not seen (docs/results/nuclei.md). gpu, paper, paper_code: not run.
"""

from ml_collections import ConfigDict

from configs import base, segmentation

SIZES = (*base.SIZES, "paper_code")
# The depth in a nucleus alone is flooded from the markers.
FLOODED = {"distance_weight": 1.0, "mask_weight": 0.0, "marker_weight": 0.0}
# Of 4,500 augmented images nine tenths train, eight at a time.
_EPOCH = 506


def segmenter(size: str) -> dict[str, object]:
    """The network's fields."""
    network: dict[str, object] = {
        "kind": "se_unet",
        "encoder": "se_resnet50",  # | resnet50 | se_resnet18 | resnet18 | efficientnet_lite0
        "blocks": (),  # of each stage; empty: the encoder's own
        "width": 64,  # of a ResNet
        "se_reduction": 16,
        "se_bias": False,  # timm's weights have biases
        "decoder_features": (256, 128, 64, 32, 16),
        "stem_skip": 0,
        "resizing": "half_pixel",  # | align_corners, under which tiles are not exact
        # Any of marker, contour, distance; what is flooded from the markers is the distance.
        "heads": ("mask", "marker", "distance"),
        "dropout": 0.0,
        "imagenet_input": False,  # for pretrained weights
    }
    if size == "smoke":
        network.update(encoder="se_resnet18", blocks=(1, 1), width=8, se_reduction=4)
        network["decoder_features"] = (16, 8)
    elif size == "laptop":
        network.update(encoder="se_resnet18", blocks=(2, 2, 2), width=48)
        network["decoder_features"] = (96, 48, 32)
    elif size == "gpu":
        network.update(stem_skip=16)
    else:
        network.update(resizing="align_corners", heads=("mask", "marker"))
    return network


def stride(network: ConfigDict) -> int:
    """Px that the sides of what the network reads are multiples of."""
    stages = len(network.blocks) or 4
    return 2 ** (stages + 1)


def get_config(size: str = "laptop") -> ConfigDict:
    """Sizes smoke, laptop, gpu, paper, paper_code."""
    size = base.check_size(size, SIZES)
    published = size in ("paper", "paper_code")
    config = segmentation.get_config("paper" if published else size)
    config.name = "use_net"
    config.segmenter = segmenter(size)
    config.pretrained = {
        # none | imagenet, which needs segmenter.imagenet_input: of resnet18, resnet50 and (with
        # segmenter.se_bias) se_resnet50 at their own width and blocks, and of efficientnet_lite0,
        # converted by launch.convert_weights.
        "encoder": "none",
        "path": "",  # .safetensors or .npz; empty: a ResNet's are fetched, once
        "sha256": "",
    }
    config.data.crop = 992
    if not published:
        crop = {"smoke": 64, "laptop": 128, "gpu": 256}[size]
        config.data.crop = base.crop(config, crop, stride=stride(config.segmenter))
    config.data.batch_size = {"smoke": 8, "laptop": 8, "gpu": 32}.get(size, 8)
    config.steps = {"smoke": 20, "laptop": 7_500, "gpu": 20_000}.get(size, 60 * _EPOCH)
    if not published:
        config.instances.watershed.update(FLOODED)
        if size == "laptop":
            # Turning needs the host, which would hold an accelerator back.
            config.data.augmentation.rotate = 180.0
        return config
    config.eval.crop = 992
    config.data.stain.method = "spcn"
    config.loss.squared_dice = True
    config.ema_decay = 0.0
    config.instances.update(kind="usenet", fit=False)
    turns = {"rotations": False, "rotate": 25.0, "translate": 0.2}
    config.data.augmentation = base.augmentation(**turns)
    config.optimizer = base.optimizer(
        1e-4, schedule="drops", warmup_steps=0, b2=0.999, clip_norm=0.0
    )
    config.optimizer.drop_at = (30 * _EPOCH,)
    if size == "paper_code":
        config.steps = 100 * _EPOCH
        # The rate is lowered as an epoch begins, so one epoch early.
        config.optimizer.drop_at = (29 * _EPOCH, 59 * _EPOCH, 89 * _EPOCH)
        config.loss.update(squared_dice=False, smooth=2.0)
        config.data.augmentation.vertical_flips = False
        config.data.targets.legacy = True
    return config
