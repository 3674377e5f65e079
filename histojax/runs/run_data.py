"""The data of a run: its splits, opened as its config has them."""

import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from ml_collections import ConfigDict

from histojax.config import from_values, read_config
from histojax.data.sources import specs, subsets, targets
from histojax.data.sources.base import Source
from histojax.runs.workdirs import stage_folder


def open_split(
    config: ConfigDict, split: str, *, fields: Sequence[str] = (), crop: int | None = None
) -> Source:
    """A split ("train", "val", "test" or "all") of the data that a config names.

    A label among `fields`, the batch arrays that a stage needs, requires every image to be
    annotated. The field "labelled" adds the unlabelled images to the training split. Images with a
    side below `crop` px are refused, as whatever else is wrong with the data (UserError).
    """
    data = config.data
    made = [field for field in targets.FIELDS if field in fields]
    required = bool(made) or "mask" in fields or "instances" in fields
    opened = _opener(config, require_labels=required, crop=crop)
    source = opened(data.source, split=split)
    if split == "train":
        source = subsets.labelled_part(source, data.labelled, config.seed)
        if data.extra:
            extra = opened(data.extra, split="all")
            source = subsets.with_extra(source, extra, data.extra_weight)
    if "labelled" in fields and split == "train":
        others = open_unlabelled(config, crop=crop)
        source = subsets.with_unlabelled(source, others, data.unlabelled_weight)
    elif "labelled" in fields:
        source = subsets.FlaggedSource(source, labelled=True)
    if made or ("mask" in fields and data.targets.legacy):
        return targets.TargetSource(source, made, data.targets)
    return source


def open_unlabelled(config: ConfigDict, *, crop: int | None = None) -> Source:
    """The images of `data.unlabelled`, learnt from without the labels that they may have."""
    data = config.data
    return subsets.open_unlabelled(
        data.unlabelled,
        _opener(config, require_labels=False, crop=crop),
        labelled=data.source,
        share=data.labelled,
        seed=config.seed,
    )


def labelled_source(workdir: pathlib.Path) -> Source:
    """The labelled images that a run was trained on, without those of data.extra."""
    config = from_values(read_config(stage_folder(workdir) / "config.json"))
    return open_split(without_extra(config), "train", fields=("instances",))


def manifest(config: ConfigDict) -> dict[str, Any]:
    """Names of a run's images by split; `unlabelled`, where there are any, and the SPEC `extra`."""
    plain = without_extra(config)
    seen = {split: sorted(open_split(plain, split).names) for split in ("train", "val")}
    if config.data.unlabelled:
        seen["unlabelled"] = sorted(open_unlabelled(config).names)
    return {**seen, "extra": config.data.extra}


def without_extra(config: ConfigDict) -> ConfigDict:
    """The config without the further training images of data.extra."""
    plain = config.copy_and_resolve_references()
    plain.data.extra = ""
    return plain


def _opener(config: ConfigDict, *, require_labels: bool, crop: int | None) -> Callable[..., Source]:
    """What opens a SPEC as a config has it: (spec, split=, ...) -> Source."""
    data = config.data
    return functools.partial(
        specs.open_source,
        seed=config.seed,
        group_pattern=data.group_pattern,
        synthetic=data.synthetic.to_dict(),
        require_labels=require_labels,
        crop=crop,
        scale=data.scale,
        data_dir=data.data_dir,
        max_pixels=data.max_pixels,
    )
