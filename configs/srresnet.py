"""SRResNet, trained to a pixel loss: the first stage of the SRGAN baseline.

Source: Ledig et al. 2017, figure 4: sixteen blocks of two 3x3 convolutions with batch
normalisation and PReLU, pixel shuffle, 9x9 kernels first and last. Data, crops, loss, optimiser and
steps are those of generator.py, so that the two compare at equal steps; laptop has as many
parameters as generator.py's (247,683 and 240,928). Size paper is the publication's own training.
The worth of the block alone: this config with generator.py's other fields, for laptop
generator.features=48, norm=none, activation=relu, head_kernel=3, upsampling=direct, skip=bicubic.

    python -m histojax.main --config=configs/srresnet.py --config.data.source=folder:$MONUSEG \\
        --config.steps=10000

laptop, one slow CPU core, 51 min 1 s: 30.40 dB, SSIM 0.865 on the 6 MoNuSeg val images, where
generator.py comes to 30.66 in 16 min 42 s (docs/results/super_resolution.md). gpu and
paper: not run.
"""

from ml_collections import ConfigDict

from configs import base
from configs import generator as resnext


def generator(size: str) -> dict[str, object]:
    """The network's fields, shared with srgan_srresnet.py."""
    network = resnext.generator(size)
    del network["width"], network["cardinality"]
    network.update(
        kind="srresnet",
        norm="batch",
        activation="prelu",
        head_kernel=9,
        upsampling="pixel_shuffle",
        skip="none",
        output="linear",
    )
    if size == "laptop":
        network["features"] = 32
    return network


def get_config(size: str = "laptop") -> ConfigDict:
    """Sizes smoke, laptop, gpu, paper."""
    size = base.check_size(size)
    config = resnext.get_config(size)
    config.name = "srresnet"
    config.generator = generator(size)
    if size == "paper":
        config.data.crop = base.crop(config, 96)
        config.data.batch_size = 16
        config.steps = 1_000_000
        config.optimizer.update(learning_rate=1e-4, b1=0.9, b2=0.999)
        config.ema_decay = 0.0
    return config
