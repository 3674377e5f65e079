"""The built-in data: synthetic H&E tissue as a source, one simulated patient in one split only."""

from __future__ import annotations

import json

from histojax.checks import check, one_of, whole
from histojax.data.sources.base import CachedSource, Objects, Record, digest_of
from histojax.data.sources.splits import SPLITS
from histojax.tissue import rendering

# Patients of a split are numbered from a multiple of this, so that the number of training images
# never changes what is validated on.
_PATIENTS_PER_SPLIT = 1_000_000
_RULES = {
    "seed": whole(0),
    "size": whole(16, 2**14),
    "patches_per_patient": whole(1, 2**20),
}


class SyntheticSource(CachedSource):
    """Synthetic tissue with exact nuclei.

    Attributes:
        names: "synthetic-<split>-<patient>-<k>", k the patch of the patient.
        groups: the patients, "synthetic-<split>-<patient>".
        mpp: 0.25 um/px.
        classes: "background", "nucleus".
    """

    mpp: float | None = rendering.MPP

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
        cache_bytes: int = 2**29,
    ):
        """Opens a split; nothing is drawn before it is asked for.

        Args:
            split: "train", "val", "test", or "all" (the three one after the other).
            seed: another one is another set of patients.
            train, val, test: number of images of each split.
            size: side of an image in px.
            patches_per_patient: images of one patient; the last patient of a split may have fewer.
            cache_bytes: bound on the drawn images that are kept, in each process; 0 keeps none.

        Raises:
            UserError: an argument is out of range.
        """
        super().__init__(cache_bytes)
        counts = {"train": train, "val": val, "test": test}
        check({"split": split}, {"split": one_of((*SPLITS, "all"))}, "data ")
        others = {"seed": seed, "size": size, "patches_per_patient": patches_per_patient}
        check(others, _RULES, "data.synthetic.")
        largest = _PATIENTS_PER_SPLIT * patches_per_patient
        check(counts, dict.fromkeys(SPLITS, whole(0, largest)), "data.synthetic.")
        self.split, self.seed, self.size = split, seed, size
        self.patches_per_patient, self.counts = patches_per_patient, counts
        self.classes = ["background", "nucleus"]
        self.objects: Objects = "nuclei"
        self.names: list[str] = []
        self.groups: list[str] = []
        self._indices: list[int] = []
        for number, name in enumerate(SPLITS):
            if split in (name, "all"):
                first = number * largest
                for i in range(counts[name]):
                    patient, k = divmod(i, patches_per_patient)
                    self.groups.append(f"synthetic-{name}-{patient:04d}")
                    self.names.append(f"{self.groups[-1]}-{k}")
                    self._indices.append(first + i)

    def _read(self, index: int) -> Record:
        drawn = rendering.tissue(
            self.seed, self._indices[index], self.size, patches_per_patient=self.patches_per_patient
        )
        name, instances = self.names[index], drawn["instances"]
        return {"name": name, "hr": drawn["image"], "instances": instances}

    def fingerprint(self) -> str:
        """Short hex string of what decides the images: model version, seed, split, counts, size."""
        identity = {
            "model": rendering.MODEL_VERSION,
            "seed": self.seed,
            "split": self.split,
            "counts": self.counts,
            "size": self.size,
            "patches_per_patient": self.patches_per_patient,
        }
        return digest_of(json.dumps(identity, sort_keys=True))
