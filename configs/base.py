"""Groups that every experiment has, with their defaults. No experiment of its own."""

from __future__ import annotations

from ml_collections import ConfigDict

SIZES = ("smoke", "laptop", "gpu", "paper")


def check_size(size: str) -> str:
    """The size, laptop where it is empty.

    Raises:
        ValueError: if it is not one of SIZES.
    """
    size = size or "laptop"
    if size not in SIZES:
        raise ValueError(f"size {size!r} is not known; choose one of {', '.join(SIZES)}")
    return size


def base(name: str, stage: str) -> ConfigDict:
    """What does not depend on the stage."""
    config = ConfigDict()
    config.name = name
    config.stage = stage
    config.seed = 0
    config.precision = "auto"  # float32 on CPU, bfloat16 compute on accelerators
    config.max_skipped = 20  # steps in a row that may be non-finite before the run stops

    config.data = ConfigDict(
        {
            "source": "synthetic",  # | folder:ROOT | a prepared set | mix:monuseg=0.7,tnbc=0.3
            "data_dir": "",  # of prepared sets; empty: $TFDS_DATA_DIR or ~/tensorflow_datasets
            "scale": 4,
            "group_pattern": "",  # empty: TCGA patient, else the text before the first "_"
            "placement": "auto",  # host | device; auto: device on accelerators where the set fits
            "device_bytes": 2**31,
            "workers": 0,  # processes that prepare batches; 0: threads of this one
            "crops_per_image": 4,
            "degradation": {
                "name": "bicubic",  # bicubic | bilinear | microscope
                "kernel": "bicubic",
                "blur_sigma": (0.5, 2.0),  # hr px
                "blur_probability": 1.0,
                "noise_sigma": (0.0, 5.0),  # grey levels of 255
                "noise_probability": 1.0,
                "jpeg_quality": (60, 95),
                "jpeg_probability": 0.5,
            },
            "synthetic": {"train": 512, "val": 8, "test": 16, "size": 256},
        }
    )
    config.eval = ConfigDict(
        {"every": 300, "crops": 24, "crop": 256, "batch_size": 8, "pictures": 4}
    )
    config.checkpoint = ConfigDict({"every": 500, "keep": 2})
    config.log = ConfigDict(
        {
            "every": 50,
            "tensorboard": False,  # needs tensorboardX
            "wandb": {  # Weights & Biases, needs wandb
                "project": "",  # empty: none
                "entity": "",  # a user or team; empty: the default of who is logged in
                "mode": "online",  # online | offline: kept in the workdir for `wandb sync`
            },
        }
    )
    config.init = ConfigDict()
    return config


def augmentation(**changes: object) -> ConfigDict:
    """Flips and quarter turns; colour and size as they are."""
    return ConfigDict(
        {
            "flips": True,
            "rotations": True,
            "stain_sigma": 0.0,
            "stain_bias": 0.0,
            "brightness": 0.0,
            "contrast": 0.0,
            "zoom": (1.0, 1.0),
            **changes,
        }
    )


def optimizer(learning_rate: float, **changes: object) -> ConfigDict:
    """AdamW: warm-up, cosine decay, clipping."""
    return ConfigDict(
        {
            "learning_rate": learning_rate,
            "schedule": "cosine",  # cosine | linear | constant
            "warmup_steps": 100,
            "end_factor": 0.01,
            "b1": 0.9,
            "b2": 0.99,
            "weight_decay": 0.0,
            "clip_norm": 1.0,
            **changes,
        }
    )


def share(config: ConfigDict, stages: tuple[ConfigDict, ...]) -> None:
    """Makes what a chain must agree on one value: set it on `config`, and all stages have it."""
    for stage in stages:
        for field in ("seed", "precision"):
            stage[field] = config.get_ref(field)
        for field in ("source", "data_dir", "scale", "group_pattern", "placement", "workers"):
            stage.data[field] = config.data.get_ref(field)
        for group in ("degradation", "synthetic"):
            for field in config.data[group]:
                stage.data[group][field] = config.data[group].get_ref(field)
        stage.log.tensorboard = config.log.get_ref("tensorboard")
        for field in config.log.wandb:
            stage.log.wandb[field] = config.log.wandb.get_ref(field)
        for network in ("generator", "segmenter", "discriminator"):
            if network in config and network in stage:
                for field in config[network]:
                    stage[network][field] = config[network].get_ref(field)


def paced(config: ConfigDict, size: str) -> ConfigDict:
    """How often a run of this size evaluates, saves and speaks."""
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
