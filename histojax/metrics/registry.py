"""What is measured: a name, a unit, decimals and a direction for every metric.

Tables, comparisons, sweeps, documents and the last words of a command read it, so that a metric is
added by its function and one entry here. A score's key is <metric>_<row>, e.g. psnr_rgb_bicubic.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
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
    """

    name: str
    title: str
    group: Group
    unit: str = ""
    decimals: int = 3
    higher_is_better: bool = True


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("psnr_rgb", "PSNR RGB", "image", "dB", 2),
        Metric("ssim_rgb", "SSIM RGB", "image"),
        Metric("psnr_y", "PSNR Y", "image", "dB", 2),
        Metric("ssim_y", "SSIM Y", "image"),
        Metric("power_spectrum_error", "power spectrum error", "image", higher_is_better=False),
        Metric("dice", "Dice", "mask"),
        Metric("iou", "IoU", "mask"),
        Metric("miou", "mean IoU", "mask"),
        Metric("dice_pooled", "Dice, pooled", "mask"),
        Metric("iou_pooled", "IoU, pooled", "mask"),
        Metric("class_miou", "mean IoU of classes", "classes"),
        Metric("class_miou_pooled", "mean IoU of classes, pooled", "classes"),
        Metric("aji", "AJI", "instances"),
        Metric("aji_plus", "AJI+", "instances"),
        Metric("pq", "PQ", "instances"),
        Metric("dq", "DQ", "instances"),
        Metric("sq", "SQ", "instances"),
        Metric("f1", "F1", "instances"),
    )
}
# Metrics of which there is one for each feature network or class: the start of the name -> how it
# is shown, its title with a place for the rest of the name.
FAMILIES: Mapping[str, Metric] = {
    "feature_distance_": Metric(
        "feature_distance_", "feature distance, {}", "image", higher_is_better=False
    ),
    "class_dice_pooled_": Metric("class_dice_pooled_", "Dice, {}, pooled", "classes"),
    "class_dice_": Metric("class_dice_", "Dice, {}", "classes"),
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
