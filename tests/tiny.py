"""Configs so small that every stage trains in seconds, and folders of images to train on."""

import contextlib
import errno
import functools
import json
import os
import resource

import jax
import numpy as np
import pytest
import tifffile
from PIL import Image

from configs import (
    base,
    generator,
    joint,
    pyramid,
    segmentation,
    srgan,
    srgan_srresnet,
    srresnet,
    unet,
    use_net,
)
from histojax.config import from_values, read_config
from histojax.experiments import chain
from histojax.imaging import resampling
from histojax.runs import checkpoint, workdirs
from histojax.stages import build_stage
from histojax.tissue import rendering

CONFIGS = {
    "generator": generator,
    "segmentation": segmentation,
    "srgan": srgan,
    "joint": joint,
    "srresnet": srresnet,
    "srgan_srresnet": srgan_srresnet,
    "unet": unet,
    "use_net": use_net,
    "pyramid": pyramid,
}


def config(name="generator", *, steps=4):
    """The smoke config of an experiment, smaller still; its earlier stages likewise."""
    return _shrink(CONFIGS[name].get_config("smoke"), steps)


def _shrink(config, steps):
    config.steps = steps
    config.data.update(crop=16, batch_size=8)
    # Whole chains, and parts of them alone, have one degradation, the fastest, and alike colors.
    config.data.degradation.update(base.degradation())
    if config.stage == "generator":
        config.data.augmentation.update(base.augmentation())
    config.data.synthetic.update(train=4, val=2, test=2, size=64)
    config.eval.update(every=2, crops=2, crop=32, batch_size=8, pictures=1)
    config.checkpoint.every = 2
    config.log.every = 1
    if "pyramid" in config:  # with networks as small as can be
        config.data.crop = 32
    else:
        _shrink_networks(config)
    for group in ("optimizer", "segmenter_optimizer", "discriminator_optimizer"):
        if group in config:
            config[group].warmup_steps = 0
    for start in config.init_from.values():
        _shrink(start, steps)
    return config


def _shrink_networks(config):
    if "generator" in config:
        small = {"features": 8, "width": 8, "cardinality": 2}
        config.generator.update({k: v for k, v in small.items() if k in config.generator})
    if "segmenter" in config:
        if config.segmenter.get("kind") == "se_unet":
            config.segmenter.update(width=4, blocks=(1,), decoder_features=(4,), se_reduction=2)
        else:
            config.segmenter.update(features=4, depth=1)
    if "discriminator" in config:
        config.discriminator.widths = (4, 8)


def tissue(index, size=64):
    """(image uint8 (S, S, 3), instances int32 (S, S)) of synthetic tissue."""
    sample = rendering.tissue(11, index, size)
    return sample["image"], sample["instances"]


def folder(root, count=4, size=64, *, mpp=None, lr=None, first=0):
    """A folder source of `count` annotated images, the last one for val; `lr`: pairs at 1/lr.

    They show the tissue from number `first` on.
    """
    (root / "images").mkdir(parents=True)
    (root / "instances").mkdir()
    names = [f"p{index}" for index in range(count)]
    for index, name in enumerate(names, first):
        image, instances = tissue(index, size)
        Image.fromarray(image).save(root / "images" / f"{name}.png")
        Image.fromarray(instances.astype(np.uint16)).save(root / "instances" / f"{name}.png")
        if lr is not None:
            write_lr(root, name, image, lr)
    (root / "splits.json").write_text(json.dumps({"train": names[:-1], "val": names[-1:]}))
    if mpp is not None:
        (root / "dataset.json").write_text(json.dumps({"mpp": mpp}))
    return root


def class_folder(root, classes, **options):
    """A folder source as above: nuclei are of class 1, what is beside them on the right of 2."""
    folder(root, **options)
    (root / "masks").mkdir()
    for path in (root / "instances").iterdir():
        mask = (np.asarray(Image.open(path)) > 0).astype(np.uint8)
        mask[:, 32:][mask[:, 32:] == 0] = 2
        Image.fromarray(mask).save(root / "masks" / path.name)
    (root / "dataset.json").write_text(json.dumps({"classes": classes}))
    return root


def write_lr(root, name, image, scale):
    """The low-resolution image of one, as if a microscope had taken it."""
    (root / "lr").mkdir(exist_ok=True)
    height, width = (side - side % scale for side in image.shape[:2])
    small = resampling.downsample(image[:height, :width], scale)
    Image.fromarray(small).save(root / "lr" / f"{name}.png")


def write_tiff(path, image, mpp=None):
    """A plain TIFF, with its scale in the resolution tags where one is given."""
    options = {}
    if mpp is not None:
        options = {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, image, photometric="rgb", **options)


def built(name, made=None):
    """(stage, its first state, one batch of noise) of a tiny config, in float32."""
    stage, state = _untrained(name) if made is None else _first_state(made)
    return stage, state, batch_for(stage)


@functools.cache
def _untrained(name):
    return _first_state(config(name))


def _first_state(made):
    initial = {"segmenter": segmenter_start()} if "segmenter" in made.init_from else {}
    stage = build_stage(made, initial)
    return stage, workdirs.fresh_state(stage, made)


@functools.cache
def segmenter_start():
    """Variables of an untrained segmentation stage."""
    made = config("segmentation")
    return workdirs.fresh_state(build_stage(made, {}), made).variables("segmenter")


def run(name, scale=4, *, generator=None):
    """A run that has not been trained: random weights, which no layer of zeros hides.

    `generator`: fields in the place of its config's.
    """
    made = config(name)
    if generator is not None:
        made.generator = generator
    for stage in chain.stages_of(made):
        # A multiple of every scale factor and of the segmenter's stride.
        stage.data.scale = scale
        if "pyramid" not in stage:
            stage.data.crop = 24
    stage, state, _ = built(name, made)
    rng = np.random.default_rng(0)
    weights = jax.tree.map(lambda x: x + 0.05 * rng.standard_normal(x.shape, np.float32), state.ema)
    meta = {"thresholds": {"mask": 0.5}, "mpp_in": None, "mpp_out": None}
    meta["data"] = {"train": [], "val": [], "before": [], "splits": {"train": [], "val": []}}
    return workdirs.Run(None, made, stage, state.replace(ema=weights), 0, meta)


@contextlib.contextmanager
def full_disk(size=100):
    """No file grows beyond `size` bytes: the kernel refuses the write, whoever asks for it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def read_only_disk():
    """No file is opened to be written and no folder made, as on a disk mounted read-only.

    Permissions would not do: root may write whatever they say.
    """

    def refuse(path, *args, **kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    opened = os.open

    def only_read(path, flags, *args, **kwargs):
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        return (refuse if writes else opened)(path, flags, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", only_read)
        patch.setattr(os, "mkdir", refuse)
        yield


def batch_for(stage, size=4, crop=16):
    """Smooth random images with their reductions, and a mask that the images show."""
    rng = np.random.default_rng(3)
    coarse = rng.integers(40, 216, (size, crop // 4, crop // 4, 3)).astype(np.uint8)
    hr = coarse.repeat(4, 1).repeat(4, 2)
    mask = (hr[..., 0] < 128).astype(np.uint8)
    arrays = {"lr": coarse, "hr": hr, "mask": mask}
    # What belongs to it does not matter, as long as the image shows it too.
    arrays |= {"marker": mask, "contour": 1 - mask, "distance": 200 * mask, "tissue": hr[::-1]}
    # The first half of the images alone.
    arrays["labelled"] = (np.arange(size) < size // 2)[:, None, None] * np.ones_like(mask)
    return {field: arrays[field] for field in stage.fields}


_stepped_last = {}  # the stage and its compiled step, since a test steps one repeatedly


def stepped(stage, state, batch, steps):
    """(state after so many steps on one batch, metrics of each step)."""
    if _stepped_last.get("stage") is not stage:
        _stepped_last.update(stage=stage, step=jax.jit(stage.train_step))
    step = _stepped_last["step"]
    history = []
    for _ in range(steps):
        state, metrics = step(state, batch)
        history.append(jax.device_get(metrics))
    return state, history


def same(a, b):
    """Whether two trees hold the same numbers, bit for bit."""
    leaves = zip(jax.tree.leaves(plain(a)), jax.tree.leaves(plain(b)), strict=True)
    return all(np.array_equal(x, y) for x, y in leaves)


def plain(tree):
    """A tree as NumPy arrays, typed keys as their numbers."""

    def leaf(x):
        if hasattr(x, "dtype") and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            x = jax.random.key_data(x)
        return np.asarray(x)

    return jax.tree.map(leaf, tree)


def last_state(workdir, step=None):
    """The whole state of a stage's last checkpoint, or of that of a step."""
    config = from_values(read_config(workdir / "config.json"))
    stage = build_stage(config, {})
    template = jax.eval_shape(lambda: workdirs.fresh_state(stage, config))
    series = checkpoint.Series(workdir / "checkpoints" / "last")
    return (series.restore(template) if step is None else series._read(step, template)).state
