"""What is measured: a function, a name, a unit, decimals and a direction for every metric.

A metric is added by its function, one entry here and a test. A score's key is <metric>_<row>, e.g.
psnr_rgb_bicubic. The functions of a group take the same arguments, all arrays of one image:

    image      (sr, hr, scale): uint8 (H, W, 3) twice, and output px per low-resolution px
    input      (sr, bicubic, scale): the same, with the bicubic enlargement of the input
    mask       (matrix): `overlap.confusion` of foreground, (2, 2)
    classes    (matrix): `overlap.confusion` of K classes, (K, K)
    instances  (table): `instances.overlap_table`
    glands     (table): the same, where the instances are glands
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from histojax.metrics import glands, instances, overlap
from histojax.metrics import image_quality as quality

Group = Literal["image", "input", "mask", "classes", "instances", "glands"]


@dataclasses.dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: the start of its keys.
        title: for readers.
        function: its value for one image; None where it is computed elsewhere.
        decimals: shown in tables.
        headline: whether a command's last words name it.
        main: whether a sweep tabulates it unless others are named.
    """

    name: str
    title: str
    group: Group
    function: Callable[..., Any] | None = None
    unit: str = ""
    decimals: int = 3
    higher_is_better: bool = True
    headline: bool = False
    main: bool = False

    @property
    def of_images(self) -> bool:
        """Whether it judges an enhanced image, and not what was found in one."""
        return self.group in ("image", "input")


_DISTANCE = "feature_distance_"
_lower = functools.partial(Metric, higher_is_better=False)

_KNOWN = (
    Metric("psnr_rgb", "PSNR RGB", "image", quality.psnr_rgb, "dB", 2, headline=True, main=True),
    Metric("ssim_rgb", "SSIM RGB", "image", quality.ssim_rgb, headline=True, main=True),
    Metric("psnr_y", "PSNR Y", "image", quality.psnr_y, "dB", 2),
    Metric("ssim_y", "SSIM Y", "image", quality.ssim_y),
    _lower("power_spectrum_error", "power spectrum error", "image", quality.power_spectrum_error),
    _lower("blur_error", "blur error", "image", quality.blur_error, "dB", 1),
    _lower("grid", "grid", "image", quality.grid, decimals=2),
    _lower("drift", "drift", "input", quality.drift, "levels", 2),
    # By evaluation.perceptual, which reads the network's weights.
    _lower("st_lpips", "ST-LPIPS", "image", main=True),
    # In features of a network, by components.content; others are of a family below.
    *(
        _lower(f"{_DISTANCE}{name}", f"feature distance, {name}", "image")
        for name in ("squeezenet1_1", "segmenter", "vgg16", "vgg19")
    ),
    Metric("dice", "Dice", "mask", overlap.dice, headline=True, main=True),
    Metric("iou", "IoU", "mask", overlap.iou),
    Metric("miou", "mean IoU", "mask", overlap.mean_iou),
    # Of crops together, counted by components.scoring.
    Metric("dice_pooled", "Dice, pooled", "mask"),
    Metric("iou_pooled", "IoU, pooled", "mask"),
    Metric("class_miou", "mean IoU of classes", "classes", overlap.mean_iou, main=True),
    # Of all images together, by classes.score_pooled.
    Metric("class_miou_pooled", "mean IoU of classes, pooled", "classes", headline=True),
    Metric("aji", "AJI", "instances", instances.aji, headline=True, main=True),
    Metric("aji_plus", "AJI+", "instances", instances.aji_plus),
    Metric("pq", "PQ", "instances", lambda table: instances.panoptic_quality(table).pq, main=True),
    Metric("dq", "DQ", "instances", lambda table: instances.panoptic_quality(table).dq),
    Metric("sq", "SQ", "instances", lambda table: instances.panoptic_quality(table).sq),
    Metric("f1", "F1", "instances", instances.f1, main=True),
    _lower("merged", "merged nuclei", "instances", instances.merged),
    Metric("object_f1", "object F1", "glands", glands.object_f1, headline=True),
    Metric("object_dice", "object Dice", "glands", glands.object_dice, headline=True),
    _lower(
        "object_hausdorff",
        "object Hausdorff distance",
        "glands",
        glands.object_hausdorff,
        "px",
        1,
        headline=True,
    ),
)
METRICS: Mapping[str, Metric] = {metric.name: metric for metric in _KNOWN}
# Metrics of which there is one for each feature network or class: the start of the name -> how it
# is shown, its title with a place for the rest of the name.
FAMILIES: Mapping[str, Metric] = {
    _DISTANCE: _lower(_DISTANCE, "feature distance, {}", "image"),
    "class_dice_pooled_": Metric("class_dice_pooled_", "Dice, {}, pooled", "classes"),
    "class_dice_": Metric("class_dice_", "Dice, {}", "classes", main=True),
}


def scores(group: Group, *compared: Any) -> dict[str, float]:
    """{name: value} of a group's metrics for one image; arguments as its functions take them."""
    return {
        metric.name: metric.function(*compared)
        for metric in METRICS.values()
        if metric.group == group and metric.function is not None
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
    """Key -> (metric, row), also of families, by the rows of the fixed names; None: no metric."""
    found = {key: split_key(key) for key in keys}
    rows = sorted({split[1] for split in found.values() if split} - {""}, key=len, reverse=True)
    for key, split in found.items():
        prefix = next((prefix for prefix in FAMILIES if key.startswith(prefix)), None)
        if split is None and prefix is not None:
            ends = [row for row in rows if key[len(prefix) + 1 :].endswith(f"_{row}")]
            found[key] = (key.removesuffix(f"_{ends[0]}"), ends[0]) if ends else None
    return found
