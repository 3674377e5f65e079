"""What a split holds, counted, and annotations that cannot be meant."""

import logging
import pathlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import scipy.ndimage

from histojax.data.sources.base import Record, Source, places_of
from histojax.data.sources.folder import FolderSource
from histojax.errors import UserError

_log = logging.getLogger(__name__)

# Images that are looked at, evenly spread; those of a folder have been decoded for their digests.
_MOST = 256
# Built-in tissue is drawn, at some 20 ms an image, and is known to be right.
_MOST_SYNTHETIC = 16
# Median diameters of nuclei in tissue sections, um and, where the scale is unknown, px: lymphocytes
# have 6 um, large tumour nuclei 20.
_LIKELY_UM, _LIKELY_PX = (3.0, 20.0), (4.0, 200.0)
# Levels of green by which nuclei are darker than the rest: 15 or more in 243 images of 5 sets.
_LEAST_DARKER = 3.0
# Times this percentile of the training nuclei's areas, beyond which an object is none. The largest
# of 16,959 nuclei of MoNuSeg has 1.9 times that, and of 2,891 of TNBC 1.3 times.
_LARGE, _BEYOND_LARGE = 99.9, 2.0


class Survey(NamedTuple):
    """What is known of a split.

    Attributes:
        words: such as "24 images of 19 groups (13,210 nuclei, median diameter 22 px)".
        sizes: what a checkpoint keeps: "nucleus_diameter", 2 sqrt(area / pi), px, the median of the
            images' medians, and "nucleus_largest", the area beyond which an object is no nucleus,
            px. Both are None without nuclei, and the largest is None for glands.
    """

    words: str
    sizes: Mapping[str, float | None]


def survey(source: Source, where: str, *, needs_labels: bool) -> Survey:
    """Counts what a split holds and checks its labels; `where` names it in a message.

    UserError for labels that cannot be meant, where they are needed: a mask given as instances, an
    inverted mask, not a single nucleus.
    """
    names = places_of(source)
    synthetic = all(name.startswith("synthetic-") for name in names)
    most, glands = _MOST_SYNTHETIC if synthetic else _MOST, source.objects == "glands"
    chosen = np.linspace(0, len(names) - 1, min(most, len(names))).round().astype(int)
    indices = np.array(list(names.values()), int)[chosen]
    areas: list[np.ndarray] = []
    masks, foreground, pixels = 0, 0, 0
    inverted: list[str] = []
    pale: list[str] = []
    for index in indices.tolist():
        record = source[index]
        if "mask" not in record:
            continue
        mask = record["mask"] > 0
        foreground, pixels = foreground + int(mask.sum()), pixels + mask.size
        if not glands and len(source.classes) == 2 and _pale(record, mask):
            (inverted if mask.mean() > 0.5 else pale).append(record["name"])
        if "instances" in record:
            labels = record["instances"]
            areas.append(np.unique(labels[labels > 0], return_counts=True)[1])
            masks += len(areas[-1]) == 1 and scipy.ndimage.label(mask)[1] > 1
    sizes = np.concatenate(areas) if areas else np.empty(0, int)
    if len(pale) > len(indices) / 2:
        _log.warning(
            f"{where}: in {len(pale)} images, such as {pale[0]!r}, what is labelled is no darker "
            "than the rest: check that labels and images belong together"
        )
    if needs_labels:
        _check(where, len(areas), masks, inverted, foreground, len(indices))
    medians = [np.median(2 * np.sqrt(found / np.pi)) for found in areas if found.size]
    diameter = float(np.median(medians)) if medians else None
    if diameter is not None and not glands:
        _check_size(where, diameter, source.mpp)
    largest = None
    if sizes.size and not glands:
        largest = _BEYOND_LARGE * float(np.percentile(sizes, _LARGE))
    part = "" if len(indices) == len(names) else f" in {len(indices)} of them"
    what = "no labels"
    if diameter is not None:
        what = f"{sizes.size:,} nuclei{part}, median diameter {diameter:.0f} px"
    elif pixels:
        what = f"{foreground / pixels:.0%} foreground{part}"
    groups = len(set(source.groups))
    images = f"{len(names)} image{'s' * (len(names) != 1)}"
    return Survey(
        f"{images} of {groups} group{'s' * (groups != 1)} ({what})",
        {"nucleus_diameter": diameter, "nucleus_largest": largest},
    )


def _pale(record: Record, mask: np.ndarray) -> bool:
    """Whether what is labelled is no darker than the rest; nuclei are dark."""
    if not 0.0 < mask.mean() < 1.0:
        return False
    green = record["hr"][..., 1]  # which both stains absorb
    return bool(green[mask].mean() > green[~mask].mean() - _LEAST_DARKER)


def _check(
    where: str, instances: int, masks: int, inverted: list[str], foreground: int, count: int
) -> None:
    if instances and masks > instances / 2:
        raise UserError(
            f"{where}: {masks} of {instances} label images in instances/ hold one number for many "
            "separate nuclei: they are masks, so move them to masks/, or number each nucleus"
        )
    if inverted and len(inverted) > count / 2:
        raise UserError(
            f"{where}: {len(inverted)} masks, such as that of {inverted[0]!r}, mark more than half "
            "of the image, the bright part: they look inverted, so swap nuclei and background"
        )
    if not foreground:
        raise UserError(
            f"{where} holds no nucleus at all in {count} images: check that labels are not 0 "
            "throughout"
        )


def _check_size(where: str, diameter: float, mpp: float | None) -> None:
    (low, high), unit = (_LIKELY_PX, "px") if mpp is None else (_LIKELY_UM, "um")
    size = diameter * (mpp or 1.0)
    if not low <= size <= high:
        _log.warning(
            f"{where}: the median nucleus measures {size:.3g} {unit}, and nuclei measure "
            f"{low:g} to {high:g} {unit}: check the labels"
            + ("" if mpp is None else f" and the scale of {mpp:g} um per px")
        )


def folder_lines(root: pathlib.Path) -> list[str]:
    """What training on a data folder would read, a line for each split."""
    whole = FolderSource(root, split="all", require_labels=False)
    lines, left_out = [], whole.left_out
    for split in whole.splits or ("train", "val"):
        source = FolderSource(root, split=split, require_labels=False)
        scale = "unknown scale" if source.mpp is None else f"{source.mpp:g} um/px"
        found = survey(source, f"{root} ({split})", needs_labels="mask" in source[0])
        lines.append(f"{split}: {found.words}, {scale}")
        left_out = source.left_out
    return lines + ([f"left out: {', '.join(left_out)}"] if left_out else [])
