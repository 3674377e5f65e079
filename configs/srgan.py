"""SRGAN-ResNeXt: the generator trained against a PatchGAN, with feature and pixel terms.

Source: Juhong et al. 2023; the terms and their weights follow Ledig et al. 2017 in form and are
ours in value, because the paper gives none. The discriminator judges 70x70 patches (Isola et al.
2017). The feature network is the run's own segmentation encoder in the small sizes, where nothing
has to be fetched, and VGG19 in gpu and paper.

    python -m histojax.main --config=configs/srgan.py --config.data.source=folder:$MONUSEG

laptop, 400 steps after the generator's 10,000 and the segmentation's 8,000, 3 min 58 s on one slow
CPU core: 29.55 dB, spectrum error 4.0 dB (generator 11.9) on the 6 MoNuSeg val images. gpu and
paper: not run.
"""

from types import ModuleType

from ml_collections import ConfigDict

from configs import base, generator, segmentation


def feature_group(size: str) -> dict[str, object]:
    """Where and how images are compared in features, shared with joint.py.

    Other networks: squeezenet1_1 and vgg16, whose weights are in third_party.
    """
    if size in ("gpu", "paper"):
        layers = {"relu1_2": 0.1, "relu2_2": 0.1, "relu3_4": 1.0, "relu4_4": 1.0}
        network = "vgg19"
    else:
        network = "segmenter"
        layers = {"level1": 1.0} if size == "smoke" else {"level1": 1.0, "level2": 1.0}
    return dict(network=network, path="", sha256="", layers=layers, kind="l1", weight=0.1)


def discriminator(size: str) -> dict[str, object]:
    """The network's fields, shared with joint.py."""
    first = {"smoke": 8, "laptop": 24, "gpu": 64, "paper": 64}[size]
    widths = (first, 2 * first, 4 * first, 8 * first)
    return dict(kind="patch", widths=widths, norm="none", spectral_norm=True)


def adversarial_group(kind: str, weight: float) -> dict[str, object]:
    """The adversarial term and what steadies it, shared with joint.py."""
    return {
        # relativistic (average) | relativistic_pairwise | bce | brier | lsgan | hinge
        "kind": kind,
        "weight": weight,  # 0: no discriminator
        "discriminator_warmup": 0,  # step from which the generator sees the term
        # On the discriminator's slope; a fourth of a step's FLOP more at every=1 (laptop).
        "penalty": {
            "kind": "none",  # none | r1 | one_centered | zero_centered
            "weight": 1.0,  # of r1: gamma. Images are in [0, 1]: a fourth of what is published
            # Taken at every so many steps, as many times as strong: set
            # discriminator_optimizer.clip_norm=0 with it, which would cut that off.
            "every": 1,
        },
    }


def collapse_group() -> dict[str, object]:
    """When a run warns that its adversarial training goes wrong, shared with joint.py."""
    return {
        "window": 100,  # steps looked back on; 0: never warns
        # Share of real patches judged above their enhanced versions: healthy runs had means of
        # 0.61 to 0.93 over a window, a coin has 0.5.
        "told_apart": 0.99,
        "confused": 0.5,
        # of enhanced images in that of real ones; healthy: 0.95 to 1.05
        "variance": (0.7, 1.5),
        "detail": (-20.0, 6.0),  # dB of power beyond the real images'; bicubic: -16
    }


def get_config(size: str = "laptop", nuclei: ModuleType = segmentation) -> ConfigDict:
    """Sizes smoke, laptop, gpu, paper; `nuclei` is the config module of the segmenter."""
    size = base.check_size(size)
    config = base.base("srgan", "srgan")
    config.generator = generator.generator(size)
    config.discriminator = discriminator(size)
    config.segmenter = nuclei.segmenter(size)
    config.loss = {
        "pixel": "l1",
        "pixel_weight": 1.0,
        "features": feature_group(size),
        "adversarial": adversarial_group("relativistic", 2e-2),
    }
    config.collapse = collapse_group()
    config.learn_from_step = dict(generator=0, discriminator=0)  # -1: never
    config.ema_decay = 0.995
    config.data.augmentation = base.augmentation()
    side = {"smoke": 64, "laptop": 128, "gpu": 256, "paper": 256}[size]
    config.data.crop = base.crop(config, side, nuclei.stride(config.segmenter))
    config.data.batch_size = {"smoke": 8, "laptop": 8, "gpu": 32, "paper": 16}[size]
    config.steps = {"smoke": 10, "laptop": 300, "gpu": 20_000, "paper": 20_000}[size]
    rate = {"smoke": 2e-4, "laptop": 2e-4, "gpu": 1e-4, "paper": 2e-4}[size]
    config.optimizer = base.optimizer(rate, b1=0.5)
    rate = {"smoke": 2e-4, "laptop": 4e-4, "gpu": 2e-4, "paper": 2e-4}[size]
    config.discriminator_optimizer = base.optimizer(rate, b1=0.5)
    config.init_from.generator = generator.get_config(size)
    config.init_from.segmenter = nuclei.get_config(size)
    base.share(config, (config.init_from.generator, config.init_from.segmenter))
    return base.paced(config, size)
