"""What is measured: a name, a unit, decimals and a direction for every metric.

Tables, comparisons, sweeps, documents and the last words of a command read it, so that a metric is
added by its function and one entry here. A score's key is <metric>_<row>, e.g. psnr_rgb_bicubic.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Literal

Group = Literal["image", "mask", "instances", "classes"]


@dataclasses.dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: the start of its keys.
        title: for readers.
        group: what it compares: enhanced images, masks, instances of nuclei, or classes.
        unit: "" where it has none.
        decimals: shown in tables.
        higher_is_better: its direction.
        main: whether a sweep tabulates it unless others are named.
    """

    name: str
    title: str
    group: Group
    unit: str = ""
    decimals: int = 3
    higher_is_better: bool = True
    main: bool = False


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("psnr_rgb", "PSNR RGB", "image", "dB", 2, main=True),
        Metric("ssim_rgb", "SSIM RGB", "image", main=True),
        Metric("psnr_y", "PSNR Y", "image", "dB", 2),
        Metric("ssim_y", "SSIM Y", "image"),
        Metric("power_spectrum_error", "power spectrum error", "image", higher_is_better=False),
        *(
            Metric(
                f"feature_distance_{network}",
                f"feature distance, {network}",
                "image",
                higher_is_better=False,
            )
            for network in ("squeezenet1_1", "segmenter", "vgg19")
        ),
        Metric("dice", "Dice", "mask", main=True),
        Metric("iou", "IoU", "mask"),
        Metric("miou", "mean IoU", "mask"),
        Metric("dice_pooled", "Dice, pooled", "mask"),
        Metric("iou_pooled", "IoU, pooled", "mask"),
        Metric("class_miou", "mean IoU of classes", "classes", main=True),
        Metric("class_miou_pooled", "mean IoU of classes, pooled", "classes"),
        Metric("aji", "AJI", "instances", main=True),
        Metric("aji_plus", "AJI+", "instances"),
        Metric("pq", "PQ", "instances", main=True),
        Metric("dq", "DQ", "instances"),
        Metric("sq", "SQ", "instances"),
        Metric("f1", "F1", "instances", main=True),
    )
}
# Metrics of which there is one for each feature network or class: the start of the name -> how it
# is shown, its title with a place for the rest of the name.
FAMILIES: Mapping[str, Metric] = {
    "feature_distance_": Metric(
        "feature_distance_", "feature distance, {}", "image", higher_is_better=False
    ),
    "class_dice_pooled_": Metric("class_dice_pooled_", "Dice, {}, pooled", "classes"),
    "class_dice_": Metric("class_dice_", "Dice, {}", "classes", main=True),
}


def metric(name: str) -> Metric | None:
    """The metric of a name without its row, also one of a family; None: it is not known."""
    if name in METRICS:
        return METRICS[name]
    for prefix, family in FAMILIES.items():
        if name.startswith(prefix):
            rest = name.removeprefix(prefix)
            return dataclasses.replace(family, name=name, title=family.title.format(rest))
    return None


def split_key(key: str) -> tuple[str, str] | None:
    """(metric, row) of a key whose metric has a fixed name; None: it has none."""
    for name in sorted(METRICS, key=len, reverse=True):
        if key == name or key.startswith(name + "_"):
            return name, key[len(name) + 1 :]
    return None


def split_keys(keys: Iterable[str]) -> dict[str, tuple[str, str] | None]:
    """Key -> (metric, row), also of families; None for a key of no metric.

    The row of a family's key is known from the rows of the fixed names among `keys`.
    """
    found = {key: split_key(key) for key in keys}
    rows = sorted({split[1] for split in found.values() if split} - {""}, key=len, reverse=True)
    for key, split in found.items():
        prefix = next((prefix for prefix in FAMILIES if key.startswith(prefix)), None)
        if split is None and prefix is not None:
            fitting = (
                (key.removesuffix(f"_{row}"), row)
                for row in rows
                if key.endswith(f"_{row}") and len(key) > len(prefix) + len(row) + 1
            )
            found[key] = next(fitting, None)
    return found
