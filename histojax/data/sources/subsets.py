"""Training on a share of the labels, by patient, and on images beside them, labelled or not."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from histojax.data.sources.base import Source
from histojax.data.sources.mixture import MixedSource
from histojax.data.sources.splits import tcga_patient
from histojax.errors import UserError

_log = logging.getLogger(__name__)


def labelled_groups(groups: Sequence[str], share: float, seed: int) -> list[str]:
    """The groups (patients) whose labels are used: the first ones by SHA-256 of (seed, group).

    So that a larger share of one seed holds the smaller ones.

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


class Subset:
    """Some images of a source, in its order; see `histojax.data.sources.Source`."""

    def __init__(self, source: Source, indices: Sequence[int]):
        self._source, self._indices = source, tuple(indices)
        self.names = [source.names[i] for i in self._indices]
        self.groups = [source.groups[i] for i in self._indices]
        self.mpp, self.classes = source.mpp, source.classes

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._source[self._indices[index]]

    def __repr__(self) -> str:
        return f"Subset({self._source!r}, images={len(self)})"

    def fingerprint(self) -> str:
        """16 hex digits of SHA-256 over the source's own and the names that are taken."""
        parts = [self._source.fingerprint(), *self.names]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def labelled_part(source: Source, share: float, seed: int) -> Any:
    """The images of a training split whose labels are used; all of them where the share is 1.

    Raises:
      UserError: for a share that is not above 0, up to 1.
    """
    number = isinstance(share, int | float) and not isinstance(share, bool)
    if not (number and 0 < share <= 1):
        raise UserError(
            f"data.labelled={share!r} has to be the share of the patients whose labels are used, "
            "above 0, up to 1"
        )
    if share == 1:
        return source
    kept = set(labelled_groups(source.groups, share, seed))
    return Subset(source, [i for i, group in enumerate(source.groups) if group in kept])


def left_out(source: Source, share: float, seed: int) -> Subset:
    """The images of a training split that `labelled_part` leaves out; there may be none."""
    kept = set(labelled_part(source, share, seed).groups)
    return Subset(source, [i for i, group in enumerate(source.groups) if group not in kept])


def with_extra(source: Source, extra: Any, weight: float) -> Any:
    """A training split and further images, each making up its share of the crops.

    Args:
      source: labelled images.
      extra: others, such as synthetic pairs.
      weight: share of the extra images, above 0, up to 1: then there are no others.

    Raises:
      UserError: for a weight out of range, or sets of different classes.
    """
    if not (isinstance(weight, int | float) and 0 < weight <= 1):
        raise UserError(
            f"data.extra_weight={weight!r} has to be the share of the crops that come of "
            "data.extra, above 0, up to 1"
        )
    # Nuclei without a class go with any: then all are nuclei alone.
    plain = list(extra.classes) == ["background", "nucleus"]
    if not plain and list(source.classes) != list(extra.classes):
        raise UserError(
            f"data.extra has the classes {', '.join(extra.classes)} and data.source "
            f"{', '.join(source.classes)}: name them alike in dataset.json"
        )
    if weight == 1:
        return extra
    return MixedSource({"real": source, "extra": extra}, [1 - weight, weight], weighted=True)


class ToldSource:
    """Adds to the records of a source whether they are labelled; see `sources.Source`.

    "labelled" is uint8 (H, W), 1 or 0 throughout. The "instances" and "mask" of images that are not
    are 0 throughout, whatever the source holds.
    """

    def __init__(self, source: Source, *, labelled: bool, like: Any = None):
        """
        Args:
          source: the images.
          labelled: whether all of them are, or none.
          like: a source whose scale and classes these are said to have; None: their own.
        """
        self._source, self._labelled = source, labelled
        self.names, self.groups = source.names, source.groups
        like = source if like is None else like
        self.mpp, self.classes = like.mpp, like.classes

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = self._source[index]
        shape = record["hr"].shape[:2]
        # Views of a single number, which take no memory.
        told = {"labelled": np.broadcast_to(np.uint8(self._labelled), shape)}
        if not self._labelled:
            told["instances"] = np.broadcast_to(np.int32(0), shape)
            told["mask"] = np.broadcast_to(np.uint8(0), shape)
        return {**record, **told}

    def __repr__(self) -> str:
        return f"ToldSource({self._source!r}, labelled={self._labelled})"

    def fingerprint(self) -> str:
        """16 hex digits of SHA-256 over the source's own and whether it is labelled."""
        parts = [self._source.fingerprint(), str(self._labelled)]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def open_unlabelled(
    spec: str, open_one: Callable[..., Any], *, beside: str, share: float, seed: int
) -> Any:
    """The images that `config.data.unlabelled` names, with whatever labels their files have.

    Args:
      spec: "rest", or a SPEC of images, all of which are taken.
      open_one: opens a SPEC without asking for labels: (spec, split=, crop=) -> Source.
      beside: SPEC of the data of which they are the rest, or beside which they are used.
      share, seed: as `labelled_part` has them.

    Raises:
      UserError: if nothing is left of the training split, a source cannot be opened, or a patient
        is among these images and among the labelled or held-out ones.
    """
    rest = left_out(open_one(beside, split="train"), share, seed)
    if spec == "rest":
        if not len(rest):
            raise UserError(
                f"data.unlabelled='rest' is what data.labelled={share} leaves out of the training "
                "patients, and that is none of them: lower data.labelled, or name other images in "
                "data.unlabelled"
            )
        return rest
    if spec == beside:
        raise UserError(
            f"data.unlabelled={spec!r} is data.source, held-out images and all: set it to 'rest', "
            "the training patients that data.labelled leaves out, or name other images"
        )
    further = open_one(spec, split="all")
    whole, free = open_one(beside, split="all", crop=None), set(rest.names)
    taken = Subset(whole, [i for i, name in enumerate(whole.names) if name not in free])
    patients = set(_patients(taken))
    for patient in _patients(further):
        if patient in patients:
            raise UserError(
                f"{patient} is in data.unlabelled={spec} and among the labelled or "
                f"held-out images of {beside}: take its images out, or prepare the set with "
                f"--exclude={patient} (--exclude=NAME leaves out all patients of a prepared set)"
            )
    return further


def with_unlabelled(source: Source, others: Any, weight: float) -> MixedSource:
    """Labelled images and others whose labels are blanked, each making up its share of the crops.

    Scale and classes are those of the labelled images, of which alone there is something to learn.

    Args:
      source: labelled images.
      others: with labels or without.
      weight: share of the others, above 0, below 1.

    Raises:
      UserError: for a weight out of range.
    """
    if not (isinstance(weight, int | float) and 0 < weight < 1):
        raise UserError(
            f"data.unlabelled_weight={weight!r} has to be the share of the crops that come of "
            "data.unlabelled, above 0 and below 1"
        )
    scales = (source.mpp, others.mpp)
    if None not in scales and max(scales) > 1.01 * min(scales):
        _log.warning("data.source has %.3g um per px and data.unlabelled %.3g", *scales)
    return MixedSource(
        {
            "labelled": ToldSource(source, labelled=True),
            "unlabelled": ToldSource(others, labelled=False, like=source),
        },
        [1 - weight, weight],
        weighted=True,
    )


def _patients(source: Source) -> list[str]:
    """TCGA patients of a source's images, in their order; of others the images' names."""
    named = zip(source.groups, source.names, strict=True)
    return [tcga_patient(group) or tcga_patient(name) or name for group, name in named]
