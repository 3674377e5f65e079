"""Training on a share of the labels, by patient, and on further images beside them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from histojax.data.mixture import MixedSource
from histojax.errors import UserError


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

    def __init__(self, source: Any, indices: Sequence[int]):
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


def labelled_part(source: Any, share: float, seed: int) -> Any:
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


def with_extra(source: Any, extra: Any, weight: float) -> Any:
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
    if list(source.classes) != list(extra.classes):
        raise UserError(
            f"data.extra has the classes {', '.join(extra.classes)} and data.source "
            f"{', '.join(source.classes)}: name them alike in dataset.json"
        )
    if weight == 1:
        return extra
    return MixedSource({"real": source, "extra": extra}, [1 - weight, weight], weighted=True)
