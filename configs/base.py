"""Groups that every experiment has, with their defaults. No experiment of its own."""

from collections.abc import Iterable

from ml_collections import ConfigDict, FieldReference

SIZES = ("smoke", "laptop", "gpu", "paper")
# Fields of the data group that each stage of a chain has for itself.
_OWN_DATA = ("unlabelled", "unlabelled_weight", "device_bytes", "crops_per_image", "stain")
_OWN_DATA += ("augmentation", "crop", "batch_size")


def check_size(size: str, sizes: tuple[str, ...] = SIZES) -> str:
    """The size, laptop where it is empty; ValueError for one that is not in `sizes`."""
    size = size or "laptop"
    if size not in sizes:
        raise ValueError(f"size {size!r} is not known; choose one of {', '.join(sizes)}")
    return size


def base(name: str, stage: str) -> ConfigDict:
    """The groups that every stage has."""
    config = ConfigDict({"name": name, "stage": stage, "seed": 0})
    config.precision = "auto"  # float32 on CPU, bfloat16 compute on accelerators
    # Networks computed twice: up to a third more time for a quarter of the activations (joint.py).
    config.remat = False
    config.max_skipped = 20  # steps in a row that may be non-finite before the run stops

    config.data = {
        "source": "synthetic",  # | folder:ROOT | a prepared set | mix:monuseg=0.7,tnbc=0.3
        "data_dir": "",  # of prepared sets; empty: $TFDS_DATA_DIR or ~/tensorflow_datasets
        "labelled": 1.0,  # share of the training patients whose labels are used, nested by seed
        "extra": "",  # SPEC of further training images, such as synthetic pairs: all of them
        "extra_weight": 0.5,  # of the labelled crops
        # Images without labels (group teacher): rest, the training patients that are not
        # labelled, or a SPEC, all of whose images are used. Empty: none.
        "unlabelled": "",
        "unlabelled_weight": 0.5,  # of the crops
        "scale": 4,  # 2 | 3 | 4 | 8
        "group_pattern": "",  # empty: TCGA patient, else the text before the first "_"
        "placement": "auto",  # host | device; auto: device on accelerators where the set fits
        "device_bytes": 2**31,
        "workers": 0,  # processes that prepare batches; 0: threads of this one
        "crops_per_image": 4,
        "max_pixels": 2**28,  # of an image or label map of a folder: larger ones are refused
        "max_shift": 1.0,  # hr px that a real lr image may lie off its hr image; 0: no check
        "degradation": degradation(),
        "stain": {  # normalisation of a segmenter's images, by a fit of each image
            "method": "none",  # none | spcn | spcn_pseudo_inverse | macenko | reinhard
            "sparsity": 0.02,  # of spcn
            "target": "TCGA-B0-5711",  # or the path of an image with the wanted stain
        },
        "targets": {  # of the segmenter.heads other than mask, made of the instances
            "marker": "shape",  # shape: nuclei eroded by their size | center: discs
            "center_radius": 4,  # px
            "contour_width": 2,  # px
            "physical": False,  # shape markers' sizes in um, where the scale is known
            "legacy": False,  # targets lose the rim that USE-Net's code takes from them
        },
        "synthetic": {"train": 512, "val": 8, "test": 16, "size": 256},
    }
    config.data.synthetic.mpp = (0.25, 0.25)  # um per px, each patient's in between; from 0.03 on
    config.eval = {
        "every": 300,
        "crops": 24,
        "crop": 256,  # hr px at most: cut down to what the images, scale and strides allow
        "batch_size": 8,
        "pictures": 4,
    }
    config.checkpoint = {
        "every": 500,
        "keep": 2,
        "best": "score",  # the step that is used: that of the best score on val | last
    }
    config.log = {
        "every": 50,
        "tensorboard": False,  # needs tensorboardX
        "wandb": {  # Weights & Biases, needs wandb
            "project": "",  # empty: none
            "entity": "",  # a user or team; empty: the default of who is logged in
            "mode": "online",  # online | offline: kept in the workdir for `wandb sync`
        },
    }
    config.init_from = {}
    return config


# Low-resolution images as real fields are, a third of them clean. Beyond their reduction by 4, real
# fields carry a blur of 1.0 to 1.3 of their own px (Gaussian sigma), and little noise.
REAL_FIELDS = {
    "name": "blind",
    "kernels": ("bicubic", "bilinear", "box", "lanczos3"),
    "blur_sigma": (2.0, 6.0),
    # Were all blurred images noisy, a network would take one without noise for a clean one, and
    # leave its blur.
    "noise_sigma": (0.0, 3.0),
    "noise_probability": 0.5,
    "photons_probability": 0.25,
    "jpeg_quality": (50, 95),
    "jpeg_probability": 0.65,
    "clean_probability": 1 / 3,
}
# Fields come in any stain and light. A generator that saw the colors of 24 images alone takes the
# blur of others for theirs, and wider ranges than these cost clean images more: 0.9 dB in the place
# of 0.55 (docs/notes/2026-11-real-fields.md).
REAL_COLORS = {
    "stain_sigma": 0.3,
    "stain_bias": 0.05,
    "brightness": 0.1,
    "contrast": 0.2,
    "channel_density": (0.3, 1.5),
}


def degradation() -> dict[str, object]:
    """How low-resolution images are made of high-resolution ones."""
    return {
        "name": "bicubic",  # bicubic | bilinear | microscope | blind | second_order
        # bicubic and bilinear have no use for what follows.
        "clean_probability": 0.0,  # share of the images that are plain bicubic
        "kernel": "bicubic",  # of microscope: bicubic | bilinear | box | lanczos3
        "kernels": ("bicubic", "bilinear", "box"),  # blind, second_order: drawn evenly
        "blur_sigma": (0.5, 2.0),  # hr px; suits x4
        "blur_probability": 1.0,
        "anisotropic_probability": 0.5,  # of the blurs; not of microscope's
        "noise_sigma": (0.0, 5.0),  # grey levels of 255
        "noise_probability": 1.0,
        "photons": (1e3, 2e4),  # at white
        "photons_probability": 0.5,
        "jpeg_quality": (60, 95),
        "jpeg_probability": 0.5,
        # second_order alone, from here on.
        "resize": (1.0, 2.0),  # side between the two orders, in sides of the lr image
        "second_blur_sigma": (0.2, 1.0),  # px of the image in between
        "second_blur_probability": 0.5,
        "second_noise_sigma": (0.0, 3.0),
        "second_noise_probability": 0.5,
        "second_photons": (1e3, 2e4),
        "second_photons_probability": 0.0,
        "second_jpeg_quality": (60, 95),
        "second_jpeg_probability": 0.5,
        "sinc_probability": 0.3,
        "sinc_cutoff": (0.5, 1.0),  # of the lr image's Nyquist frequency
    }


def crop(config: ConfigDict, side: int, stride: int = 1) -> FieldReference:
    """Side of the training crops, hr px, that follows data.scale until it is set itself.

    `side` at the scales 2, 4 and 8, whose multiple it is; at 3 the next below it that 3 and the
    stride of a network that reads the crops both divide.
    """
    unit = stride * config.data.get_ref("scale")
    return side // unit * unit


def augmentation(**changes: object) -> dict[str, object]:
    """Flips and quarter turns; colour and size as they are."""
    return {
        "flips": True,
        "vertical_flips": True,  # upside down as well
        "rotations": True,
        "stain_sigma": 0.0,
        "stain_bias": 0.0,
        "own_stains": False,  # each image's stains, by a fit, instead of the textbook's
        "brightness": 0.0,
        "contrast": 0.0,
        "channel_density": (1.0, 1.0),  # factor of the optical density of R, G and B, each its own
        "glass": 0.0,  # share of the crops of which a part becomes bare glass; not with real lr
        "zoom": (1.0, 1.0),
        "zoom_probability": 1.0,
        "rotate": 0.0,  # degrees
        "translate": 0.0,  # sides of the crop; what lies outside of the image is black
        "coarse": (1.0, 1.0),  # factor by which hr images lose detail, not with lr; (1, 2): 40x-20x
        "jpeg_quality": (100, 100),  # in half of the crops, after coarse; not with lr
        **changes,
    }


def instances() -> dict[str, object]:
    """How maps become nuclei where segmenter.heads has a marker."""
    return {
        "marker_from_mask": False,  # eroded components in the place of a marker head
        "kind": "watershed",  # any size | usenet: as published, whole images
        "fit": True,  # its parameters to the val split, once the run is trained
        "watershed": {
            "mask_threshold": 0.5,
            "marker_threshold": 0.5,
            "marker_peak": 0.0,  # markers that nowhere reach it are dropped
            "min_marker": 8.0,  # px, as the following
            "min_area": 30.0,
            "min_unmarked": 60.0,  # components without a marker are dropped below it
            "max_hole": 60.0,
            # Of the maps in the height that is flooded from the markers.
            "mask_weight": 1.0,
            "marker_weight": 1.0,
            "distance_weight": 0.0,
            "contour_weight": 0.0,
        },
        "usenet": {
            "mask_threshold": 0.1,
            "marker_threshold": 0.1,
            "min_mask": 50,  # px, as the following
            "min_marker": 20,
            "max_hole": 100,
        },
    }


def optimizer(learning_rate: float, **changes: object) -> ConfigDict:
    """AdamW: warm-up, cosine decay, clipping."""
    return ConfigDict(
        {
            "learning_rate": learning_rate,
            "schedule": "cosine",  # cosine | linear | constant | drops
            "warmup_steps": 100,
            "end_factor": 0.01,
            "drop_at": (),  # steps at which the schedule drops multiplies the rate by drop_factor
            "drop_factor": 0.1,
            "b1": 0.9,
            "b2": 0.99,
            "weight_decay": 0.0,
            "clip_norm": 1.0,
            # Steps to one update, by their mean gradient; costs the memory of one copy of weights.
            "accumulate": 1,
            **changes,
        }
    )


def share(config: ConfigDict, stages: tuple[ConfigDict, ...]) -> None:
    """Links the fields that a chain must agree on: set one on `config`, and all stages have it."""
    groups = ("instances", "generator", "segmenter", "discriminator", "collapse")
    for stage in stages:
        link(config, stage, ("seed", "precision", "remat", *groups))
        link(config.data, stage.data, [name for name in config.data if name not in _OWN_DATA])
        link(config.log, stage.log, ("tensorboard", "wandb"))


def link(group: ConfigDict, other: ConfigDict, fields: Iterable[str]) -> None:
    """Lets fields of `other` follow those of `group`, where both have them; groups as a whole."""
    for field in fields:
        if field in group and field in other:
            if isinstance(group[field], ConfigDict):
                link(group[field], other[field], group[field])
            else:
                other[field] = group.get_ref(field)


def paced(config: ConfigDict, size: str) -> ConfigDict:
    """How often a run of this size evaluates, saves and logs."""
    if size == "smoke":
        for name in config:
            if name.endswith("optimizer"):
                config[name].warmup_steps = 2
        config.eval.update(every=10, crops=4, crop=64, batch_size=4, pictures=2)
        config.checkpoint.every = 10
        config.log.every = 5
        config.data.synthetic.update(train=16, val=2, test=2, size=96)
    elif size in ("gpu", "paper"):
        config.eval.update(every=2_000, crop=256, crops=48, batch_size=16)
        config.checkpoint.every = 2_000
        config.log.every = 100
        config.data.synthetic.update(train=4_096, val=32)
    return config
