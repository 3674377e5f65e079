"""The plain U-Net, the baseline of the Inception U-Net.

Source: Ronneberger et al. 2015. Data, crops, loss, optimiser and steps are those of
segmentation.py, and so is batch normalisation, so that the two compare at equal steps and differ in
their blocks; laptop has as many parameters as segmentation.py's (1,087,468 and 1,106,404).

Size paper: the U-Net as Juhong et al. coded it in 2021 (31,032,837 parameters): no normalisation,
dropout, two channels before the logit, squared error of the probability, Adam at 2e-4, two passes
over the images without augmentation. Ours differs in that pixels are fed in [-1, 1], not in
[0, 255].

    python -m histojax.main --config=configs/unet.py \\
        --config.data.source=folder:$MONUSEG --config.steps=8000

laptop, one slow CPU core, 48 min 25 s: Dice 0.834 on the 6 MoNuSeg val images, where
segmentation.py comes to 0.829 (docs/results/nuclei.md). gpu and paper: not run.
"""

from ml_collections import ConfigDict

from configs import base, segmentation


def segmenter(size: str) -> dict[str, object]:
    """The network's fields."""
    network: dict[str, object] = {
        "kind": "unet",
        "features": 64,
        "depth": 4,
        "norm": "batch",  # batch | none
        "dropout": 0.0,  # of the two deepest encoder levels
        "head_features": 0,
        "stem_stride": 1,
        "heads": ("mask",),  # and any of marker, contour, distance
    }
    if size == "smoke":
        network.update(depth=2, features=8)
    elif size == "laptop":
        network.update(depth=3, features=24, stem_stride=2)
    elif size == "paper":
        network.update(norm="none", dropout=0.5, head_features=2)
    return network


def get_config(size: str = "laptop") -> ConfigDict:
    """Sizes smoke, laptop, gpu, paper."""
    size = base.check_size(size)
    config = segmentation.get_config(size)
    config.name = "unet"
    config.segmenter = segmenter(size)
    if size == "paper":
        config.loss.update(bce_weight=0.0, dice_weight=0.0, mse_weight=1.0)
        config.ema_decay = 0.0
        config.data.augmentation = base.augmentation(flips=False, rotations=False)
        config.data.crop = 256
        config.data.batch_size = 16
        config.steps = 154  # two passes over nine tenths of the 1,356 annotated patches of TCIA
        config.optimizer = base.optimizer(
            2e-4, schedule="constant", warmup_steps=0, b1=0.5, b2=0.999, clip_norm=0.0
        )
    return config
