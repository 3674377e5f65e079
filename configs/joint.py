"""The main job: low-resolution image in, enhanced image and nuclei out, both networks together.

Source: Juhong et al. 2023, joint SRGAN-ResNeXt and Inception U-Net, each started from its own run;
the loss and its weights are ours, because the paper gives none. On an empty workdir this trains
four stages, each in its folder: generator, segmentation, srgan, joint. Low-resolution images are
made as real fields are, a third of them clean.

    python -m histojax.main --config=configs/joint.py
    python -m histojax.main --config=configs/joint.py --config.data.source=folder:$MONUSEG

laptop, lengths 10,000, 8,000, 400 and 600 on MoNuSeg, one core of a Xeon, 2 h 12 min: Dice 0.814
from the low-resolution image on the 6 val images (0.772 from bicubic), 26.01 dB (bicubic 25.27); on
clean images, with degradation.name=bicubic, 0.822 and 29.54 dB (docs/results/joint.md). gpu and
paper: not run. gpu keeps 43 GiB of activations for the gradient at its batch of 32 in
bfloat16, and 9 GiB with remat, which computes networks twice (launch.benchmark --what=residuals).
"""

from types import ModuleType

from ml_collections import ConfigDict

from configs import base, segmentation, srgan


def get_config(size: str = "laptop", nuclei: ModuleType = segmentation) -> ConfigDict:
    """Sizes smoke, laptop, gpu, paper; `nuclei` is the config module of the segmenter."""
    size = base.check_size(size)
    name = "joint" if nuclei is segmentation else f"joint_{nuclei.__name__.rpartition('.')[2]}"
    config = base.base(name, "joint")
    start = srgan.get_config(size, nuclei)
    config.generator = start.generator.copy_and_resolve_references()
    config.segmenter = nuclei.segmenter(size)
    config.discriminator = srgan.discriminator(size)
    config.threshold = 0.5  # of the foreground probability
    # Connected components of the mask; px.
    config.nuclei = dict(min_area=30, max_hole=30)
    config.instances = base.instances()  # the same, where segmenter.heads has a marker
    config.loss = {
        "pixel": "l1",
        "pixel_weight": 1.0,
        "features": srgan.feature_group(size),
        # A quarter of srgan.py's, which keeps the texture that is there: at half of it PSNR
        # went on falling, by 0.40 dB in 600 steps on MoNuSeg. 0: off.
        "adversarial": srgan.adversarial_group("relativistic", 5e-3),
        "bce_weight": 0.5,
        "dice_weight": 0.5,
        "mse_weight": 0.0,
        "squared_dice": False,
        "smooth": 1.0,
        "mask_weight": 0.1,  # mask loss on the enhanced image, through the generator
        "real_mask_weight": 0.05,  # on the real image, to keep the segmenter's skill
    }
    config.collapse = srgan.collapse_group()
    # Step at which each network starts to learn; -1: never.
    config.learn_from_step = dict(generator=0, segmenter=0, discriminator=0)
    config.ema_decay = 0.99
    config.data.augmentation = segmentation.augmentation()
    side = {"smoke": 64, "laptop": 128, "gpu": 256, "paper": 256}[size]
    config.data.crop = base.crop(config, side, nuclei.stride(config.segmenter))
    config.data.batch_size = {"smoke": 8, "laptop": 8, "gpu": 32, "paper": 16}[size]
    if size != "paper":
        # Of all stages; --config.data.degradation.name=bicubic is for clean scans alone.
        config.data.degradation.update(base.REAL_FIELDS)
        start.init_from.generator.data.augmentation.update(base.REAL_COLORS)
    config.eval.crops = 54
    config.steps = {"smoke": 10, "laptop": 300, "gpu": 10_000, "paper": 10_000}[size]
    config.optimizer = base.optimizer(1e-4 if size == "smoke" else 5e-5)
    rate = {"smoke": 5e-4, "laptop": 3e-4, "gpu": 1e-4, "paper": 1e-4}[size]
    config.segmenter_optimizer = base.optimizer(rate, weight_decay=0.05)
    rate = 2e-4 if size == "smoke" else 1e-4
    config.discriminator_optimizer = base.optimizer(rate, b1=0.5)
    config.init_from.generator = start
    config.init_from.segmenter = start.init_from.segmenter
    stages = (start.init_from.generator, start.init_from.segmenter, start)
    base.share(config, stages)
    # The length of every stage in one place: --config.lengths.generator=12000.
    config.lengths = {stage.name: stage.get_ref("steps") for stage in (config, *stages)}
    return base.paced(config, size)
