"""Training on a share of the labels, by patient, and on further images, labelled or not."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from histojax.checks import check, number
from histojax.data.sources.base import OpenSource, Record, Source, WrappedSource, common_mpp
from histojax.data.sources.mixture import MixedSource
from histojax.data.sources.splits import tcga_patient
from histojax.errors import UserError

_log = logging.getLogger(__name__)

_RULES = {
    "labelled": number(above=0, most=1, of="a share of the patients"),
    "extra_weight": number(above=0, most=1, of="a share of the crops"),
    "unlabelled_weight": number(above=0, below=1, of="a share of the crops"),
}


def labelled_groups(groups: Sequence[str], share: float, seed: int) -> list[str]:
    """The groups (patients) whose labels are used: the first ones by SHA-256 of (seed, group).

    A larger share of one seed holds the smaller ones.

    Args:
        groups: of the training images, repeated or not.
        share: of the distinct groups, above 0, up to 1; at least one is taken.
        seed: of the order.
    """
    distinct = sorted(
        set(groups),
        key=lambda group: hashlib.sha256(f"{seed}:labelled:{group}".encode()).hexdigest(),
    )
    return distinct[: max(1, round(share * len(distinct)))]


class Subset(WrappedSource):
    """Some images of a source, in its order."""

    def __init__(self, source: Source, indices: Sequence[int]):
        super().__init__(source)
        self._indices = tuple(indices)
        self.names = [source.names[i] for i in self._indices]
        self.groups = [source.groups[i] for i in self._indices]

    def __getitem__(self, index: int) -> Record:
        return self._source[self._indices[index]]

    def fingerprint(self) -> str:
        """16 hex digits of SHA-256 over the source's own and the names that are taken."""
        parts = [self._source.fingerprint(), *self.names]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def labelled_part(source: Source, share: float, seed: int) -> Source:
    """The images of a training split whose labels are used; all of them where the share is 1.

    Raises:
        UserError: for a share that is not above 0, up to 1.
    """
    _check(labelled=share)
    if share == 1:
        return source
    kept = set(labelled_groups(source.groups, share, seed))
    return Subset(source, [i for i, group in enumerate(source.groups) if group in kept])


def left_out(source: Source, share: float, seed: int) -> Subset:
    """The images of a training split that `labelled_part` leaves out; there may be none."""
    kept = set(labelled_part(source, share, seed).groups)
    return Subset(source, [i for i, group in enumerate(source.groups) if group not in kept])


def with_extra(source: Source, extra: Source, weight: float) -> Source:
    """A training split and further images, each making up its share of the crops.

    Args:
        source: labelled images.
        extra: others, such as synthetic pairs.
        weight: share of the extra images, above 0, up to 1; at 1 they are all there is.

    Raises:
        UserError: for a weight out of range, or sets of different classes.
    """
    _check(extra_weight=weight)
    # Nuclei without a class go with any classes: all are then nuclei alone.
    plain = list(extra.classes) == ["background", "nucleus"]
    if not plain and list(source.classes) != list(extra.classes):
        raise UserError(
            f"data.extra has the classes {', '.join(extra.classes)} and data.source "
            f"{', '.join(source.classes)}: name them alike in dataset.json"
        )
    if weight == 1:
        return extra
    return MixedSource({"real": source, "extra": extra}, [1 - weight, weight], weighted=True)


class FlaggedSource(WrappedSource):
    """Adds "labelled" to the records of a source: uint8 (H, W), 1 or 0 throughout.

    The "instances" and "mask" of unlabelled images are 0 throughout, whatever the source holds.
    """

    def __init__(self, source: Source, *, labelled: bool, like: Source | None = None):
        """Wraps the source.

        Args:
            source: the images.
            labelled: whether they are labelled.
            like: a source whose scale and classes these take over; None: their own.
        """
        super().__init__(source)
        self._labelled = labelled
        if like is not None:
            self.mpp, self.classes, self.objects = like.mpp, like.classes, like.objects

    def __getitem__(self, index: int) -> Record:
        record = self._source[index]
        shape = record["hr"].shape[:2]
        # Views of a single number, which take no memory.
        added = {"labelled": np.broadcast_to(np.uint8(self._labelled), shape)}
        if not self._labelled:
            added["instances"] = np.broadcast_to(np.int32(0), shape)
            added["mask"] = np.broadcast_to(np.uint8(0), shape)
        return {**record, **added}

    def fingerprint(self) -> str:
        """16 hex digits of SHA-256 over the source's own and whether it is labelled."""
        parts = [self._source.fingerprint(), str(self._labelled)]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def open_unlabelled(
    spec: str, open_one: OpenSource, *, labelled: str, share: float, seed: int
) -> Source:
    """The images that `config.data.unlabelled` names, with whatever labels their files have.

    Args:
        spec: "rest", the training patients that `labelled_part` leaves out; or a SPEC of images,
            all of which are taken.
        open_one: opens a SPEC without asking for labels.
        labelled: SPEC of the labelled data.
        share, seed: as `labelled_part` has them.

    Raises:
        UserError: if nothing is left of the training split, a source cannot be opened, or a patient
            is among these images and among the labelled or held-out ones.
    """
    rest = left_out(open_one(labelled, split="train"), share, seed)
    if spec == "rest":
        if not len(rest):
            raise UserError(
                f"data.unlabelled='rest' takes the training patients that data.labelled={share} "
                "leaves out, and there are none: lower data.labelled, or name other images in "
                "data.unlabelled"
            )
        return rest
    if spec == labelled:
        raise UserError(
            f"data.unlabelled={spec!r} is data.source, held-out images and all: set it to 'rest', "
            "the training patients that data.labelled leaves out, or name other images"
        )
    further = open_one(spec, split="all")
    whole, free = open_one(labelled, split="all", crop=None), set(rest.names)
    taken = Subset(whole, [i for i, name in enumerate(whole.names) if name not in free])
    patients = set(_patients(taken))
    for patient in _patients(further):
        if patient in patients:
            raise UserError(
                f"{patient} is in data.unlabelled={spec} and among the labelled or held-out images "
                f"of {labelled}: take its images out, or prepare the set with "
                f"--exclude={patient} (--exclude=NAME leaves out all patients of a prepared set)"
            )
    return further


def with_unlabelled(source: Source, others: Source, weight: float) -> MixedSource:
    """Labelled images and others whose labels are blanked, each making up its share of the crops.

    Scale and classes are those of the labelled images.

    Args:
        source: labelled images.
        others: with labels or without.
        weight: share of the others, above 0, below 1.

    Raises:
        UserError: for a weight out of range.
    """
    _check(unlabelled_weight=weight)
    scales = (source.mpp, others.mpp)
    if None not in scales and common_mpp(scales) is None:
        _log.warning("data.source has %.3g um per px and data.unlabelled %.3g", *scales)
    return MixedSource(
        {
            "labelled": FlaggedSource(source, labelled=True),
            "unlabelled": FlaggedSource(others, labelled=False, like=source),
        },
        [1 - weight, weight],
        weighted=True,
    )


def _check(**values: Any) -> None:
    check(values, {name: _RULES[name] for name in values}, "data.")


def _patients(source: Source) -> list[str]:
    """TCGA patients of a source's images, in their order; of others the images' names."""
    named = zip(source.groups, source.names, strict=True)
    return [tcga_patient(group) or tcga_patient(name) or name for group, name in named]
