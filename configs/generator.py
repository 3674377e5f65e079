"""The ResNeXt generator, trained to a pixel loss: the first stage of SRGAN-ResNeXt.

Source: Juhong et al. 2023, Biomed. Opt. Express 14(1):18-36; blocks of Xie et al. 2017. The paper
gives neither widths nor losses: sizes gpu and paper are our reading of it (16 blocks of 32 groups),
laptop keeps every module and works at low resolution throughout.

    python -m histojax.main --config=configs/generator.py --config.data.source=folder:$MONUSEG \\
        --config.steps=10000

laptop, one CPU core, 8 min 40 s: 30.66 dB, SSIM 0.870 on the 6 MoNuSeg val images (bicubic 28.04,
0.801); measured before `phases` and `anchor` came. gpu and paper: not run.
"""

from ml_collections import ConfigDict

from configs import base


def generator(size: str) -> dict[str, object]:
    """The network's fields, shared with srgan.py and joint.py."""
    network: dict[str, object] = {
        "kind": "resnext",  # | srresnet, juhong2021: srresnet.py, srgan_srresnet.py:paper
        "blocks": 16,
        "features": 64,
        "width": 128,
        "cardinality": 32,
        "activation": "prelu",  # prelu | relu
        "norm": "none",  # none | batch
        "head_kernel": 9,
        "tail_kernel": 9,
        "upsampling": "pixel_shuffle",  # pixel_shuffle | direct
        "phases": "alike",  # free | alike: no grid of data.scale px in flat places
        "skip": "bicubic",  # none | bicubic
        "output": "linear",  # linear | tanh
        "residual_scale": 1.0,
        "anchor": 3.0,  # lr px: sigma of a Gaussian; what it passes of the input stays; 0: off
    }
    if size in ("smoke", "laptop"):
        network.update(activation="relu", head_kernel=3, upsampling="direct")
    if size == "smoke":
        network.update(blocks=1, features=16, width=32, cardinality=4)
    elif size == "laptop":
        network.update(blocks=8, features=48, width=64, cardinality=2)
    elif size == "gpu":
        network["width"] = 256
    else:
        network.update(norm="batch", skip="none", output="tanh", phases="free", anchor=0.0)
    return network


def get_config(size: str = "laptop") -> ConfigDict:
    """Sizes smoke, laptop, gpu, paper."""
    size = base.check_size(size)
    config = base.base("generator", "generator")
    config.generator = generator(size)
    config.loss = dict(pixel="l1", pixel_weight=1.0)  # l1 | mse | charbonnier
    config.ema_decay = 0.999
    config.data.augmentation = base.augmentation()
    side = {"smoke": 32, "laptop": 96, "gpu": 192, "paper": 256}[size]
    config.data.crop = base.crop(config, side)
    config.data.batch_size = {"smoke": 8, "laptop": 8, "gpu": 32, "paper": 16}[size]
    config.steps = {"smoke": 20, "laptop": 3_000, "gpu": 60_000, "paper": 20_000}[size]
    rate = {"smoke": 1e-3, "laptop": 3e-3, "gpu": 5e-4, "paper": 2e-4}[size]
    config.optimizer = base.optimizer(rate)
    if size == "paper":
        config.optimizer.update(schedule="constant", warmup_steps=0, b1=0.5, clip_norm=0.0)
        config.loss.pixel = "mse"
    return base.paced(config, size)
