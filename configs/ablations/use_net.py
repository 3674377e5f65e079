"""The nine experiments of USE-Net's Table II (Rahmon et al. 2021), exp1 ... exp9.

The table leaves open the loss of exp1 to exp5 and exp7, and all of exp8: these are inferred. More
augmented images (4,500 for 1,500) are more steps here, because every crop is augmented.

    python -m launch.sweep --run=configs/ablations/use_net.py:exp{1..9}-laptop --seeds=0 \\
        --output=runs/ablation -- --config.data.source=folder:$MONUSEG

runs all nine, in bash. `exp1` has size paper, and `exp1-laptop` another. ResNet-50 has half the
width at laptop, because a bottleneck ends with four times as many channels. Four experiments ran at
laptop in an earlier form: 900 steps, width 32, SE-ResNet-18. AJI was 0.525 (exp1), 0.533 (exp2),
0.584 (exp4) and 0.595 (exp7) on MoNuSeg val images (docs/results/nuclei.md).
"""

from ml_collections import ConfigDict

from configs import base, use_net

# Stain normalisation, augmented images, encoder, whether Dice is in the loss, kind of markers.
EXPERIMENTS = {
    "exp1": ("none", 1_500, "resnet18", False, ""),
    "exp2": ("spcn", 1_500, "resnet18", False, ""),
    "exp3": ("spcn", 1_500, "resnet18", False, "center"),
    "exp4": ("spcn", 1_500, "resnet18", False, "shape"),
    "exp5": ("spcn", 1_500, "resnet50", False, "shape"),
    "exp6": ("spcn", 4_500, "resnet18", True, "shape"),
    "exp7": ("spcn", 1_500, "se_resnet50", False, "shape"),
    "exp8": ("spcn", 1_500, "se_resnet50", True, "shape"),
    "exp9": ("spcn", 4_500, "se_resnet50", True, "shape"),
}

_LAPTOP_STEPS = 2_700  # of 4,500 images, about 20 minutes on a core


def get_config(size: str = "exp9") -> ConfigDict:
    """exp1 ... exp9, each with an optional size of use_net.py: exp4-laptop."""
    name, _, size = (size or "exp9").partition("-")
    if name not in EXPERIMENTS:
        raise ValueError(
            f"experiment {name!r} is not known; choose one of {', '.join(EXPERIMENTS)}"
        )
    size = base.check_size(size or "paper", use_net.SIZES)
    stain, images, encoder, dice, marker = EXPERIMENTS[name]
    config = use_net.get_config(size)
    config.name = name
    config.data.stain.method = stain
    config.segmenter.encoder = encoder
    if size in ("smoke", "laptop") and encoder.endswith("50"):
        config.segmenter.width //= 2  # a bottleneck ends with four times as many
    if size == "laptop":
        config.steps = _LAPTOP_STEPS
    config.segmenter.heads = ("mask", "marker") if marker else ("mask",)
    config.instances.watershed = base.instances()["watershed"]  # no distance is predicted
    config.data.targets.marker = marker or "shape"
    config.instances.marker_from_mask = not marker
    if not dice:
        config.loss.update(bce_weight=1.0, dice_weight=0.0)
    if images == 1_500:
        config.steps //= 3
        config.optimizer.drop_at = tuple(step // 3 for step in config.optimizer.drop_at)
    return config
