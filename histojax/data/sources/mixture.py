"""Several sets as one source, mixed by weight, no patient of which is in two of them."""

import logging
import math
from collections.abc import Callable, Sequence

import numpy as np

from histojax.data.sources.base import Record, Source, common_mpp
from histojax.data.sources.splits import tcga_patient
from histojax.errors import UserError

_log = logging.getLogger(__name__)

_FIELDS = ("instances", "mask", "lr", "labelled")


def open_mixture(spec: str, open_one: Callable[..., Source], split: str) -> "MixedSource":
    """Opens "mix:SPEC=WEIGHT,SPEC=WEIGHT,...", such as "mix:monuseg=0.7,tnbc=0.3".

    Split "train" follows the weights; the others hold every image once. `open_one` is
    `specs.open_source` with its other arguments bound. UserError for a patient in two sets.
    """
    weights = parse_mixture(spec)
    sources = {name: open_one(name, split=split) for name in weights}
    set_of: dict[str, str] = {}
    for name in weights:
        whole = open_one(name, split="all", require_labels=False, crop=None)
        for patient in filter(tcga_patient, patients(whole)):
            if set_of.setdefault(patient, name) != name:
                raise UserError(
                    f"patient {patient} is in {set_of[patient]} and in {name}: mix sets without "
                    f"common patients, or prepare one with --exclude={patient} (--exclude=NAME "
                    "leaves out all patients of a prepared set)"
                )
    return MixedSource(sources, list(weights.values()), weighted=split == "train")


def patients(source: Source) -> list[str]:
    """The TCGA patient of each image, or else the image's name."""
    named = zip(source.groups, source.names, strict=True)
    return [tcga_patient(group) or tcga_patient(name) or name for group, name in named]


def parse_mixture(spec: str) -> dict[str, float]:
    """{spec: weight} of "mix:SPEC=WEIGHT,...", weights adding up to 1."""
    weights: dict[str, float] = {}
    for term in spec.removeprefix("mix:").split(","):
        name, _, text = term.strip().rpartition("=")
        try:
            weight = float(text)
        except ValueError:
            weight = math.nan
        if not name or name.startswith("mix:") or not 0 < weight < math.inf:
            raise UserError(
                f"data source {spec!r}: {term!r} is not SPEC=WEIGHT with a positive weight: write "
                "it like mix:monuseg=0.7,tnbc=0.3"
            )
        if name in weights:
            raise UserError(f"data source {spec!r} names {name!r} twice: name it once")
        weights[name] = weight
    if len(weights) < 2:
        raise UserError(
            f"data source {spec!r} mixes {len(weights)} set: name two or more, or give "
            f"{next(iter(weights))!r} alone"
        )
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


class MixedSource(Source):
    """Several sources as one, {spec: source} with weights that add up to 1.

    Where it is weighted, images are repeated until each source makes up its weight, and each is
    there at least once: an epoch is max(images / weight) long. Names are "SOURCE-NAME", and so are
    groups that are no TCGA patients. Records hold the fields that all sources have; where their
    classes differ, the mask is {0, 1}.
    """

    def __init__(self, sources: dict[str, Source], weights: Sequence[float], *, weighted: bool):
        self._sources = list(sources.values())
        counts = [len(source) for source in self._sources]
        if weighted:
            shares = list(zip(counts, weights, strict=True))
            longest = max(n / weight for n, weight in shares)
            # Rounding must not leave the longest source an image short.
            counts = [max(n, round(longest * weight)) for n, weight in shares]
        self._rows = [
            (number, row % len(source))
            for number, (source, count) in enumerate(zip(self._sources, counts, strict=True))
            for row in range(count)
        ]
        prefixes = _prefixes(list(sources))
        self.names, self.groups = [], []
        for number, row in self._rows:
            source, prefix = self._sources[number], prefixes[number]
            group = source.groups[row]
            self.names.append(f"{prefix}-{source.names[row]}")
            self.groups.append(tcga_patient(group) or f"{prefix}-{group}")
        scales = [source.mpp for source in self._sources]
        self.mpp = common_mpp(scales)
        if self.mpp is None and any(scales):
            stated = ", ".join(map(str, scales))
            _log.warning(
                f"the mixed sets do not all state one scale ({stated} um per pixel): taken as "
                "unknown"
            )
        first = self._sources[0].classes
        self._binary = any(source.classes != first for source in self._sources)
        self.classes = ["background", "nucleus"] if self._binary else list(first)
        kinds = {source.objects for source in self._sources}
        self.objects = kinds.pop() if len(kinds) == 1 else "nuclei"
        self.left_out = [text for source in self._sources for text in source.left_out]
        self.seen = [entry for source in self._sources for entry in source.seen]
        held = [set(source[0]) for source in self._sources if len(source)]
        self._fields = [field for field in _FIELDS if all(field in have for have in held)]

    def __getitem__(self, index: int) -> Record:
        number, row = self._rows[index]
        record = self._sources[number][row]
        mixed = {"name": self.names[index], "hr": record["hr"]}
        mixed |= {field: record[field] for field in self._fields if field in record}
        if self._binary and "mask" in mixed:
            mixed["mask"] = (mixed["mask"] > 0).astype(np.uint8)
            mixed["mask"].flags.writeable = False
        return mixed

    def digests(self, index: int) -> tuple[str, str]:
        number, row = self._rows[index]
        return self._sources[number].digests(row)


def _prefixes(specs: Sequence[str]) -> list[str]:
    """Short names of the sources; those that are alike get the number of their source."""
    short = [
        spec.rstrip("/").rpartition("/")[2]
        if spec.startswith("folder:")
        else spec.replace("/", "-")
        for spec in specs
    ]
    return [
        prefix if short.count(prefix) == 1 else f"{prefix}-{number}"
        for number, prefix in enumerate(short, 1)
    ]
