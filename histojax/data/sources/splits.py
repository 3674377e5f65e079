"""Which images train, which validate: groups of images of one patient, kept on one side."""

from __future__ import annotations

import hashlib
import logging
import pathlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from histojax.checks import check, number
from histojax.errors import UserError

_log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
_TCGA_PATIENT = re.compile(r"TCGA-[A-Z0-9]{2}-[A-Z0-9]{4}")
OWN_GROUPS = "data.group_pattern='.*' makes every image its own group"


def group_of(name: str, pattern: str | None = "") -> str:
    """Returns the group (patient) that an image's name states.

    Args:
        name: the image's name without its ending.
        pattern: regular expression; its first group, or the whole match, is the group. Empty: the
            first 12 characters of a TCGA barcode, else the text before the first "_", else the
            name.

    Raises:
        UserError: the pattern is malformed or does not match.
    """
    if not pattern:
        patient = _TCGA_PATIENT.match(name)
        return patient[0] if patient else (name.split("_")[0] or name)
    try:
        match = re.search(pattern, name)
    except re.error as error:
        raise UserError(
            f"data.group_pattern={pattern!r} is not a regular expression ({error}): mend it, or "
            "leave it empty"
        ) from error
    group = match and (match[1] if match.re.groups else match[0])
    if not group:
        raise UserError(
            f"data.group_pattern={pattern!r} finds no group in the image name {name!r}: write one "
            "that matches every name, or leave it empty"
        )
    return group


def tcga_patient(text: str) -> str | None:
    """Returns the TCGA patient ("TCGA-XX-XXXX") that a name or group speaks of, if any."""
    patient = _TCGA_PATIENT.search(text)
    return patient[0] if patient else None


def split_groups(
    groups: Sequence[str], *, seed: int, val_fraction: float = 0.2
) -> tuple[list[str], list[str]]:
    """Returns (train, val) groups: ordered by SHA-256 of (seed, group), the first ones to val.

    round(val_fraction * number of groups) go to val, at least one and at most all but one.

    Raises:
        UserError: for a val_fraction that is not between 0 and 1.
    """
    check({"val_fraction": val_fraction}, {"val_fraction": number(above=0, below=1)})
    distinct = sorted(
        set(groups), key=lambda group: hashlib.sha256(f"{seed}:{group}".encode()).hexdigest()
    )
    count = min(max(1, round(val_fraction * len(distinct))), len(distinct) - 1)
    return distinct[count:], distinct[:count]


def single_group(images: str, groups: Sequence[str], remedy: str) -> UserError:
    """The error for images that are all of one group.

    Args:
        images: which, in words.
        groups: of each.
        remedy: in words, besides a group_pattern.
    """
    return UserError(
        f"the {len(groups)} {images} are all of one group ({groups[0]!r}), so train and val cannot "
        f"be of different patients: {remedy} or set data.group_pattern ({OWN_GROUPS})"
    )


def checked_splits(
    path: pathlib.Path, content: Mapping[str, Any], images: Mapping[str, pathlib.Path]
) -> dict[str, list[str]]:
    """Returns {split: names} from the content of splits.json; splits without names are left out.

    Args:
        path: of splits.json, to name it.
        content: {"train": [...], "val": [...], "test": [...]} of names or file names.
        images: {name: path} of the images that there are.

    Raises:
        UserError: another split, an image that is not there, or one that is named twice.
    """
    by_file = {unicodedata.normalize("NFC", path.name): name for name, path in images.items()}
    unknown = sorted(set(content) - set(SPLITS))
    if unknown:
        raise UserError(f"{path} names the split {unknown[0]!r}: only train, val and test are used")
    splits: dict[str, list[str]] = {}
    seen: dict[str, str] = {}
    for split, names in content.items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UserError(f"{path}: {split!r} is not a list of image names: make it one")
        names = [unicodedata.normalize("NFC", name) for name in names]
        splits[split] = [by_file.get(name, name) for name in names]
        for name in splits[split]:
            if name not in images:
                raise UserError(
                    f"{path} names {name!r} in {split!r}, and images/ has no such image: "
                    "add the image or take the name out"
                )
            if name in seen:
                raise UserError(
                    f"{path} names {name!r} twice (in {seen[name]!r} and {split!r}): keep one"
                )
            seen[name] = split
    left = len(images) - len(seen)
    if left:
        _log.warning("%s: %d of %d images are in no split and not used", path, left, len(images))
    return {split: names for split, names in splits.items() if names}


def names_of_split(
    root: pathlib.Path,
    split: str,
    splits: Mapping[str, list[str]] | None,
    groups: Mapping[str, str],
    seed: int,
    val_fraction: float,
) -> list[str]:
    """Returns the sorted names of a split, no patient of which is on the other side of training.

    Args:
        root: the data folder, to name it.
        split: "train", "val", "test" or "all".
        splits: of splits.json, or None to split by group.
        groups: {name: group} of all images.
        seed, val_fraction: of the split by group; see `split_groups`.

    Raises:
        UserError: no such split, a single group, a TCGA patient in two splits, or (for train and
            val) any group in two splits; for test such a group is warned of.
    """
    if splits is not None:
        _check_sides(root, split, splits, groups)
    if split == "all":
        return sorted(groups)
    there = list(splits) if splits is not None else ["train", "val"]
    if split not in there:
        where = "splits.json" if splits is not None else "without splits.json"
        raise UserError(
            f"data folder {root} has no split {split!r}: {where} there are "
            f"{', '.join([*there, 'all'])}"
        )
    if splits is None:
        listed = list(groups.values())
        if len(set(listed)) == 1:
            raise single_group(
                f"images of {root}", listed, "add another patient, write splits.json"
            )
        parts = split_groups(listed, seed=seed, val_fraction=val_fraction)
        wanted = set(parts[there.index(split)])
        return sorted(name for name, group in groups.items() if group in wanted)
    return sorted(splits[split])


def _check_sides(
    root: pathlib.Path,
    split: str,
    splits: Mapping[str, list[str]],
    groups: Mapping[str, str],
) -> None:
    """Refuses groups that splits.json puts in two splits, or warns; see `names_of_split`."""
    side: dict[str, str] = {}
    for other, names in splits.items():
        for name in names:
            group = groups[name]
            if side.setdefault(group, other) == other:
                continue
            fault = (
                f"{root / 'splits.json'} puts the group {group!r} in {side[group]!r} and in "
                f"{other!r} (by {name!r}): move its images to one split, or set "
                f"data.group_pattern ({OWN_GROUPS})"
            )
            if split in ("train", "val") or tcga_patient(group):
                raise UserError(fault)
            if split == "test":
                _log.warning("%s", fault)
