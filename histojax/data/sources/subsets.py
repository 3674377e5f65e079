"""Training on a share of the labels, by patient, and on further images, labelled or not."""

import logging
from collections.abc import Callable, Container, Mapping, Sequence

import numpy as np

from histojax.checks import check, number
from histojax.data.sources.base import Record, Source, WrappedSource, common_mpp
from histojax.data.sources.mixture import MixedSource, patients
from histojax.data.sources.splits import ordered_groups
from histojax.errors import UserError

_log = logging.getLogger(__name__)

_PATIENTS, _CROPS = "a share of the patients", "a share of the crops"


class Subset(WrappedSource):
    """The images of a source that belong to some groups, in its order."""

    def __init__(self, source: Source, groups: Container[str]):
        super().__init__(source)
        self._indices = [i for i, group in enumerate(source.groups) if group in groups]
        self.names = [source.names[i] for i in self._indices]
        self.groups = [source.groups[i] for i in self._indices]

    def __getitem__(self, index: int) -> Record:
        return self._source[self._indices[index]]

    def digests(self, index: int) -> tuple[str, str]:
        return self._source.digests(self._indices[index])


def labelled_part(source: Source, share: float, seed: int) -> Source:
    """The images of a training split whose labels are used: those of a share of the patients.

    They are the first groups by SHA-256 of (seed, group), at least one. A larger share of one seed
    holds the smaller ones.
    """
    check({"labelled": share}, {"labelled": number(above=0, most=1, of=_PATIENTS)}, "data.")
    if share == 1:
        return source
    distinct = ordered_groups(source.groups, f"{seed}:labelled")
    return Subset(source, set(distinct[: max(1, round(share * len(distinct)))]))


def left_out(source: Source, share: float, seed: int) -> Subset:
    """The images of a training split that `labelled_part` leaves out; there may be none."""
    return Subset(source, set(source.groups) - set(labelled_part(source, share, seed).groups))


def with_extra(source: Source, extra: Source, weight: float) -> Source:
    """A training split and further images, which make up the share `weight` of the crops.

    At weight 1 the extra images are all there is. The scale is that of the training split.
    UserError for sets of different classes.
    """
    check({"extra_weight": weight}, {"extra_weight": number(above=0, most=1, of=_CROPS)}, "data.")
    # Nuclei without a class go with any classes: all are then nuclei alone.
    plain = list(extra.classes) == ["background", "nucleus"]
    if not plain and list(source.classes) != list(extra.classes):
        raise UserError(
            f"data.extra has the classes {', '.join(extra.classes)} and data.source "
            f"{', '.join(source.classes)}: name them alike in dataset.json"
        )
    if weight == 1:
        return extra
    mixed = MixedSource({"real": source, "extra": extra}, [1 - weight, weight], weighted=True)
    mixed.mpp = source.mpp
    return mixed


class FlaggedSource(WrappedSource):
    """Adds "labelled" to the records of a source: uint8 (H, W), 1 or 0 throughout.

    Unlabelled images get "instances" and "mask" of 0. `like` is a source whose scale and classes
    these take over.
    """

    def __init__(self, source: Source, *, labelled: bool, like: Source | None = None):
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

    def digests(self, index: int) -> tuple[str, str]:
        image, labels = self._source.digests(index)
        return image, labels if self._labelled else ""


def open_unlabelled(
    spec: str,
    open_one: Callable[..., Source],
    *,
    labelled: str,
    share: float,
    seed: int,
    kept: Mapping[str, Sequence[str]] | None = None,
) -> Source:
    """The images that `config.data.unlabelled` names, with whatever labels their files have.

    `spec` is "rest", the training patients that `labelled_part` leaves out of `labelled`, or a SPEC
    of images, all of which are taken; `open_one` opens one without asking for labels. UserError
    where nothing is left, or a patient is among the labelled or held-out ones too.
    """
    rest = left_out(open_one(labelled, split="train", kept=kept), share, seed)
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
    named = zip(patients(whole), whole.names, strict=True)
    taken = {patient for patient, name in named if name not in free}
    for patient in patients(further):
        if patient in taken:
            raise UserError(
                f"{patient} is in data.unlabelled={spec} and among the labelled or held-out images "
                f"of {labelled}: take its images out, or prepare the set with "
                f"--exclude={patient} (--exclude=NAME leaves out all patients of a prepared set)"
            )
    return further


def with_unlabelled(source: Source, others: Source, weight: float) -> MixedSource:
    """Labelled images and others whose labels are blanked, the share `weight` of the crops.

    Scale and classes are those of the labelled images.
    """
    rule = number(above=0, below=1, of=_CROPS)
    check({"unlabelled_weight": weight}, {"unlabelled_weight": rule}, "data.")
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
