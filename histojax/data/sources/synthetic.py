"""The built-in data: synthetic H&E tissue as a source, one simulated patient in one split only."""

import functools
import json
from collections.abc import Sequence
from typing import Any

from histojax.checks import check, number, one_of, pair, whole
from histojax.data.sources.base import CachedSource, Objects, Record, digest_of
from histojax.data.sources.splits import SPLITS
from histojax.tissue import rendering

# Patients of a split are numbered from a multiple of this, so that the number of training images
# never changes what is validated on.
_PATIENTS_PER_SPLIT = 1_000_000
_RULES = {"seed": whole(0), "size": whole(16, 2**14), "patches_per_patient": whole(1, 2**20)}
_RULES["mpp"] = pair(number(0.03, rendering.MPP, of="a number of um per px"))


class SyntheticSource(CachedSource):
    """Synthetic tissue with exact nuclei: images "synthetic-<split>-<patient>-<k>", k the patch."""

    def __init__(
        self,
        *,
        split: str = "train",
        seed: int = 0,
        train: int = 512,
        val: int = 12,
        test: int = 24,
        size: int = 256,
        patches_per_patient: int = rendering.PATCHES_PER_PATIENT,
        mpp: float | Sequence[float] = rendering.MPP,
        cache_bytes: int = 2**29,
    ):
        """Opens a split, of the three one after the other for "all"; nothing is drawn here.

        Args:
            seed: another one is another set of patients.
            train, val, test: number of images of each split.
            size: side of an image in px.
            patches_per_patient: images of one patient; the last one of a split may have fewer.
            mpp: um per px, or two of them between which each patient's is drawn.
        """
        super().__init__(cache_bytes)
        counts = {"train": train, "val": val, "test": test}
        check({"split": split}, {"split": one_of((*SPLITS, "all"))}, "data ")
        scales = mpp if isinstance(mpp, (tuple, list)) else (mpp,)  # a flag gives (mpp,) for one
        scales = (*scales, *scales) if len(scales) == 1 else scales
        others: dict[str, Any] = dict(seed=seed, size=size, patches_per_patient=patches_per_patient)
        check({"mpp": scales, **others}, _RULES, "data.synthetic.")
        if scales[0] < rendering.MPP:  # else digests and images are those of before there was mpp
            others["mpp"] = tuple(scales)
        self.mpp = scales[0] if scales[0] == scales[1] else None
        largest = _PATIENTS_PER_SPLIT * patches_per_patient
        check(counts, dict.fromkeys(SPLITS, whole(0, largest)), "data.synthetic.")
        self.split = split
        self._draw = functools.partial(rendering.tissue, **others)
        self._identity = json.dumps({"model": rendering.MODEL_VERSION, **others}, sort_keys=True)
        self.classes = ["background", "nucleus"]
        self.objects: Objects = "nuclei"
        self.names: list[str] = []
        self.groups: list[str] = []
        self._indices: list[int] = []
        for place, name in enumerate(SPLITS):
            if split in (name, "all"):
                first = place * largest
                for i in range(counts[name]):
                    patient, k = divmod(i, patches_per_patient)
                    self.groups.append(f"synthetic-{name}-{patient:04d}")
                    self.names.append(f"{self.groups[-1]}-{k}")
                    self._indices.append(first + i)

    def _read(self, index: int) -> Record:
        drawn = self._draw(index=self._indices[index])
        name, instances = self.names[index], drawn["instances"]
        return {"name": name, "hr": drawn["image"], "instances": instances}

    def digests(self, index: int) -> tuple[str, str]:
        """Of what decides an image and its nuclei, so that none is drawn."""
        digest = digest_of(self._identity, str(self._indices[index]))
        return digest, digest
