"""SRGAN, the baseline of SRGAN-ResNeXt: SRResNet against a discriminator of the whole image.

Sizes smoke, laptop and gpu: networks and adversarial loss of Ledig et al. 2017 (figure 4, eq. 2 and
6); feature and pixel terms, crops, steps and optimisers of srgan.py, so that the two compare at
equal steps. The discriminator's dense layer is narrower than the published 1,024, because our crops
are larger than its 96 pixels.

Size paper: SRGAN as Juhong et al. coded it in 2021, before their paper of 2023: one convolution a
block, nearest-neighbour upsampling, a discriminator fixed at 256 pixels, features of VGG19 without
rescaling and 1e-3 of the adversarial term, bilinear degradation, one image a step, no pre-training.
Ours differs in that VGG19 is fed the range that it was trained on, both axes are mirrored, and
generator and discriminator learn from the same image. At one image a step the discriminator's last
normalisation sees one value a channel and passes nothing of the image on: the adversarial term then
has no gradient, there as here. Two images mend it: --config.data.batch_size=2.

    python -m histojax.main --config=configs/srgan_srresnet.py \\
        --config.data.source=folder:$MONUSEG --config.init_from.generator.steps=10000 \\
        --config.init_from.segmenter.steps=8000 --config.steps=400

The segmentation stage, which gives the feature network, is that of joint.py: its finished folder
may be copied into this workdir instead of being trained again. laptop, with 8,000 steps of it, the
last stage on one slow CPU core, 10 min 32 s: 28.59 dB, SSIM 0.807 on the 6 MoNuSeg val images,
where srgan.py comes to 29.55 and 0.845 (docs/results/super_resolution.md). gpu and paper: not run.
"""

from ml_collections import ConfigDict

from configs import base, srgan, srresnet


def discriminator(size: str) -> dict[str, object]:
    """The network's fields."""
    first = {"smoke": 8, "laptop": 24, "gpu": 64, "paper": 64}[size]
    network: dict[str, object] = {
        "kind": "scalar",
        "size": 256,  # px; other crops are refused
        "widths": tuple(first * n for n in (1, 1, 2, 2, 4, 4, 8, 8)),
        "halving": "alternate",  # alternate | every
        "order": "norm_first",  # norm_first | activation_first
        "norm": "batch",  # batch | keras_batch | none
        "dense": 128,
    }
    if size == "paper":
        network.update(halving="every", order="activation_first", norm="keras_batch", dense=1024)
    return network


def get_config(size: str = "laptop") -> ConfigDict:
    """Sizes smoke, laptop, gpu, paper."""
    size = base.check_size(size)
    config = srgan.get_config(size)
    config.name = "srgan_srresnet"
    config.generator = srresnet.generator(size)
    config.discriminator = discriminator(size)
    if size == "paper":
        return _as_coded(config)
    config.discriminator.size = config.data.get_ref("crop")
    config.loss.adversarial.kind = "bce"
    config.init_from.generator = srresnet.get_config(size)
    base.share(config, (config.init_from.generator,))
    return config


def _as_coded(config: ConfigDict) -> ConfigDict:
    """The config of Juhong et al. 2021."""
    config.generator = {"kind": "juhong2021", "blocks": 16, "features": 64}
    config.loss.pixel_weight = 0.0
    config.loss.features.update(kind="raw_mse", weight=1.0)
    config.loss.features.layers = {"relu3_3": 1.0}
    config.loss.adversarial.update(kind="brier", weight=1e-3)
    config.ema_decay = 0.0
    config.data.crop = 256
    config.data.batch_size = 1
    config.data.degradation.name = "bilinear"
    config.data.augmentation = base.augmentation(rotations=False)
    config.steps = 20_000
    for group in ("optimizer", "discriminator_optimizer"):
        config[group] = base.optimizer(
            2e-4, schedule="constant", warmup_steps=0, b1=0.5, b2=0.999, clip_norm=0.0
        )
    del config.segmenter
    config.init_from = {}
    return config
