"""The models in the box, each by its name in the place of a size.

    python -m launch.train_zoo --model=nuclei-40x --data=$SETS

trains one, scores it, and puts it into the box. $SETS is a folder that holds monuseg/, tnbc/ and
dsb2018_he/, laid out as docs/reference/data_formats.md says, and what else is scored. A card in
docs/models/ has each model's hours, hardware and scores. The networks are those of use_net.py and
generator.py at their laptop size, trained longer and on pictures as people have them.
"""

from ml_collections import ConfigDict

from configs import base, generator, joint_use_net, use_net

# Nuclei of 24 px at 0.25 um per px measure 6 px in a x4 smaller image, at 0.08 um per px 19 px,
# and zoomed 2.5 times more.
_FINE = (0.08, 0.25)
# Wider than joint.py's: these models are for fields first.
_COLORS = {
    "stain_sigma": 0.4,
    "stain_bias": 0.1,
    "brightness": 0.15,
    "contrast": 0.4,
    "channel_density": (0.1, 1.6),
}
# Blurred and sharp images alike have noise and JPEG, which then say nothing about blur.
_FIELDS = {
    **base.REAL_FIELDS,
    "blur_probability": 0.75,
    "clean_probability": 0.2,
    "noise_probability": 0.3,
    "photons_probability": 0.2,
    "jpeg_probability": 0.5,
}


def get_config(name: str = "nuclei-40x") -> ConfigDict:
    """The config of a model, whose data lie in folders called as the sets are."""
    return MODELS[base.check_size(name, SIZES)](name)


def _nuclei(name: str) -> ConfigDict:
    config = use_net.get_config("laptop")
    config.name = name
    # Squeeze-and-excitation pools over the window: where glass took four fifths of it, use_net.py's
    # AJI fell from 0.59 to 0.48 on four val images.
    config.segmenter.encoder = "resnet18"
    config.data.source = "folder:monuseg" if name == "nuclei-40x" else "folder:tnbc_open"
    config.data.extra = "mix:folder:dsb2018_he=0.5,synthetic=0.5"
    # TNBC is one tissue of one laboratory: what else there is counts for more.
    config.data.extra_weight = 0.15 if name == "nuclei-40x" else 0.4
    config.data.synthetic.update(train=96, val=0, test=0)
    # As a picture of 20x looks once it is resampled to 40x, and as files are stored.
    config.data.augmentation.update(zoom=(0.6, 1.4), coarse=(1.0, 2.0), jpeg_quality=(50, 95))
    config.eval.every = 1_000
    config.steps = 16_000 if name == "nuclei-40x" else 10_000
    return config


def _enhancer(name: str) -> ConfigDict:
    config = generator.get_config("laptop")
    config.name = name
    config.data.source = "folder:monuseg"
    config.data.extra, config.data.extra_weight = "synthetic", 0.2
    config.data.synthetic.update(train=192, val=0, test=0, mpp=_FINE)
    config.data.augmentation.update(_COLORS)
    if name == "enhance-x4-microscope":
        config.data.degradation.update(_FIELDS)
        # Fields come at any magnification, and real images at one: enlarged, they show how smooth
        # finer ones are.
        config.data.augmentation.update(zoom=(1.0, 2.5), zoom_probability=0.5)
        config.checkpoint.best = "last"
    config.eval.every = 1_000
    config.steps = 14_000
    return config


def _joint(name: str) -> ConfigDict:
    config = joint_use_net.get_config("laptop")
    config.name = name
    # Those of the models that it starts from.
    config.generator = _enhancer("enhance-x4-microscope").generator
    config.segmenter = _nuclei("nuclei-40x").segmenter
    config.data.source = "folder:monuseg"
    config.data.degradation.update(_FIELDS)
    with config.init_from.unlocked(), config.init_from.ignore_type():
        config.init_from = {"generator": "enhance-x4-microscope", "segmenter": "nuclei-40x"}
    config.loss.adversarial.weight = 0.0
    config.eval.every = 250
    config.steps = 2_000
    return config


MODELS = {
    "enhance-x4-clean": _enhancer,
    "enhance-x4-microscope": _enhancer,
    "nuclei-40x": _nuclei,
    "nuclei-joint-x4": _joint,
    "nuclei-open": _nuclei,
}
SIZES = tuple(MODELS)
# Of the weights, which is that of their data: MoNuSeg's, or TNBC's and dsb2018_he's.
LICENCES = {name: "CC-BY-4.0" if name == "nuclei-open" else "CC-BY-NC-SA-4.0" for name in MODELS}
SUMMARIES = {
    "enhance-x4-clean": "Enhances clean scans that were shrunk four times.",
    "enhance-x4-microscope": "Enhances real microscope fields four times.",
    "nuclei-40x": "Finds every nucleus in pictures of 20x to 40x.",
    "nuclei-joint-x4": "Enhances a field of low magnification four times and finds its nuclei.",
    "nuclei-open": "Finds every nucleus, from openly licensed images alone.",
}
