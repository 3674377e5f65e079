"""Which images train, which validate: groups of images of one patient, kept on one side."""

import hashlib
import logging
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from histojax.errors import UserError

_log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
_TCGA_PATIENT = re.compile(r"TCGA-[A-Z0-9]{2}-[A-Z0-9]{4}")
_VAL_FRACTION = 0.2
_OWN_GROUPS = "data.group_pattern (data.group_pattern='.*' makes every image its own group)"


def group_of(name: str, pattern: str | None = "") -> str:
    """The group (patient) that an image's name, without its ending, states.

    It is the first group, or else the whole match, of the regular expression `pattern`. Without one
    it is the TCGA patient, else the text before the first "_", else the name.
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
    """The TCGA patient ("TCGA-XX-XXXX") that a name or group speaks of, if any."""
    patient = _TCGA_PATIENT.search(text)
    return patient[0] if patient else None


def ordered_groups(groups: Iterable[str], salt: str) -> list[str]:
    """The distinct groups by SHA-256 of "salt:group": an order as good as random."""
    return sorted(
        set(groups), key=lambda group: hashlib.sha256(f"{salt}:{group}".encode()).hexdigest()
    )


def split_groups(groups: Iterable[str], *, seed: int) -> tuple[list[str], list[str]]:
    """(train, val) groups: the first 20 % of `ordered_groups`, at least one, go to val."""
    distinct = ordered_groups(groups, str(seed))
    count = max(1, round(_VAL_FRACTION * len(distinct)))
    return distinct[count:], distinct[:count]


def checked_splits(
    path: Path, content: Mapping[str, Any], images: Mapping[str, Path]
) -> dict[str, list[str]]:
    """{split: names} from the content of splits.json, which may list file names, checked.

    `images` is {name: path} of those that there are. Splits without names are left out.
    """
    by_file = {unicodedata.normalize("NFC", path.name): name for name, path in images.items()}
    splits: dict[str, list[str]] = {}
    seen: dict[str, str] = {}
    for split, names in content.items():
        if split not in SPLITS:
            raise UserError(f"{path} names the split {split!r}: only train, val and test are used")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UserError(f"{path}: {split!r} is not a list of image names: make it one")
        for name in (unicodedata.normalize("NFC", name) for name in names):
            name = by_file.get(name, name)
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
            splits.setdefault(split, []).append(name)
    return splits


def kept_splits(
    root: Path, images: Mapping[str, Path], kept: Mapping[str, Sequence[str]], opened: str
) -> dict[str, list[str]]:
    """The splits that a run was trained with; what a folder has gained since is in none.

    UserError where an image of the split that is `opened` is gone.
    """
    splits = {split: [n for n in names if n in images] for split, names in kept.items()}
    if gone := sorted(set(kept.get(opened, ())) - set(images)):
        raise UserError(
            f"data folder {root} lacks images that the run was trained with ({len(gone)}: "
            f"{', '.join(gone[:3])}): put them back, or train in a new --workdir"
        )
    return splits


def check_grouping(where: str, groups: Mapping[str, str]) -> None:
    """Refuses names like patient01-roi1, whose patients the default pattern does not see.

    Every image is then a group of its own, and the names, of one form, share beginnings.
    """
    parts = [re.findall(r"[^\W\d_]+|\d+|[\W_]+", name) for name in groups]
    forms = {tuple("a" if p.isalpha() else "0" if p.isdigit() else p for p in own) for own in parts}
    if len(set(groups.values())) < len(groups) or len(forms) > 1:
        return
    for count in range(1, len(parts[0])):
        starts = ["".join(own[:count]) for own in parts]
        if 1 < len(set(starts)) <= len(groups) / 2:
            kinds = {"a": "[A-Za-z]+", "0": "[0-9]+"}
            pattern = "".join(kinds.get(p, re.escape(p)) for p in [*forms.pop()][:count])
            raise UserError(
                f"{where} may hold several images of {max(starts, key=starts.count)!r}: write "
                f"splits.json, or set data.group_pattern={pattern!r} (a patient) or '.*' (not one)"
            )


def names_of_split(
    where: str,
    split: str,
    roles: Mapping[str, str | None],
    groups: Mapping[str, str],
    *,
    carve: bool,
    published: bool,
    seed: int,
) -> list[str]:
    """The sorted names of a split, no patient of which is on the other side of training.

    Args:
        roles: {name: split}; images in no split are left out or None.
        carve: whether `split_groups` takes val out of the train images.
        published: whether others made the splits: a group that trains and tests is then no error.

    Raises:
        UserError: for a split that is not there, a single group to carve, or a group in two splits,
            also of "all" if it is a TCGA patient. Another group of test that trains is warned of.
    """
    if carve and split != "all":
        training = {name: groups[name] for name, role in roles.items() if role == "train"}
        distinct = sorted(set(training.values()))
        if len(distinct) > 1:
            val = set(split_groups(distinct, seed=seed)[1])
            roles = {**roles, **{n: "val" for n, group in training.items() if group in val}}
        elif training and split != "test":
            more = "prepare more of the set" if published else "write splits.json, add a patient"
            raise UserError(
                f"the {len(training)} images of {where} that train are all of one group "
                f"({distinct[0]!r}), so train and val cannot be of different patients: {more}, or "
                f"set {_OWN_GROUPS}"
            )
    side: dict[str, str] = {}
    shared = set()
    remedy = "move its images to one split of splits.json"
    if published:
        remedy = "prepare the set without that group"
    for name, role in roles.items():
        group = groups[name]
        if role is None or side.setdefault(group, role) == role:
            continue
        tests = "test" in (side[group], role)
        allowed = split == "all" or (tests if published else split == "test")
        if tcga_patient(group) or not allowed:
            raise UserError(
                f"{where} has the group {group!r} in {side[group]!r} and, by {name!r}, in "
                f"{role!r}: {remedy}, or set {_OWN_GROUPS}"
            )
        if tests:
            shared.add(group)
    if split == "all":
        return sorted(groups)
    there = [role for role in SPLITS if role in roles.values()]
    if split not in there:
        without = "without splits.json " if carve and not published else ""
        raise UserError(
            f"{where} has no split {split!r}: {without}there are {', '.join([*there, 'all'])}, "
            f"so name one of these, or images of {split!r} in splits.json"
        )
    if shared and split == "test":
        few = ", ".join(map(repr, sorted(shared)[:3])) + (", ..." if len(shared) > 3 else "")
        why = "as the set was published" if published else f"{remedy}, or set {_OWN_GROUPS}"
        _log.warning(f"{where}: {len(shared)} groups of test are in training too ({few}): {why}")
    return sorted(name for name, role in roles.items() if role == split)
