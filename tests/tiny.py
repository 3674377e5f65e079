"""Configs so small that every stage trains in seconds, and folders of images to train on."""

import json

import numpy as np
import tifffile
from PIL import Image

from configs import generator, joint, segmentation, srgan
from histojax.data import synthetic

CONFIGS = {"generator": generator, "segmentation": segmentation, "srgan": srgan, "joint": joint}


def config(name="generator", *, steps=4):
    """The smoke config of an experiment, smaller still; its earlier stages likewise."""
    return _shrink(CONFIGS[name].get_config("smoke"), steps)


def _shrink(settings, steps):
    settings.steps = steps
    settings.data.update(crop=16, batch_size=8)
    settings.data.synthetic.update(train=4, val=2, test=2, size=64)
    settings.eval.update(every=2, crops=2, crop=32, batch_size=8, pictures=1)
    settings.checkpoint.every = 2
    settings.log.every = 1
    if "generator" in settings:
        settings.generator.update(features=8, width=8, cardinality=2)
    if "segmenter" in settings:
        settings.segmenter.update(features=4, depth=1)
    if "discriminator" in settings:
        settings.discriminator.widths = (4, 8)
    for group in ("optimizer", "segmenter_optimizer", "discriminator_optimizer"):
        if group in settings:
            settings[group].warmup_steps = 0
    for start in settings.init.values():
        _shrink(start, steps)
    return settings


def tissue(index, size=64):
    """(image uint8 (S, S, 3), instances int32 (S, S)) of synthetic tissue."""
    sample = synthetic.tissue(11, index, size)
    return sample["image"], sample["instances"]


def folder(root, count=4, size=64, *, mpp=None):
    """A folder source of `count` annotated images, the last one for val."""
    (root / "images").mkdir(parents=True)
    (root / "instances").mkdir()
    names = [f"p{index}" for index in range(count)]
    for index, name in enumerate(names):
        image, instances = tissue(index, size)
        Image.fromarray(image).save(root / "images" / f"{name}.png")
        Image.fromarray(instances.astype(np.uint16)).save(root / "instances" / f"{name}.png")
    (root / "splits.json").write_text(json.dumps({"train": names[:-1], "val": names[-1:]}))
    if mpp is not None:
        (root / "dataset.json").write_text(json.dumps({"mpp": mpp}))
    return root


def write_tiff(path, image, mpp=None):
    """A plain TIFF, with its scale in the resolution tags where one is given."""
    options = {}
    if mpp is not None:
        options = {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, image, photometric="rgb", **options)
