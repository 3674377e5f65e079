"""Prepared data sets as sources: random access by tensorflow_datasets, without TensorFlow."""

import json
import os
import re
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np

from histojax.data.sources.base import CachedSource, Record
from histojax.data.sources.record_cache import ComputedOnce
from histojax.data.sources.splits import group_of, names_of_split
from histojax.errors import UserError

VERSION = "2.0.0"  # of what is written; a change of parsing or features is another
NAME = re.compile(r"[a-z][a-z0-9_]*")
# Sets that `histojax.prepare` knows how to read.
DATASETS = ("folder", "glas", "monuseg", "nuinsseg", "pannuke", "tcia", "tnbc")


def default_data_dir() -> Path:
    """The default folder of prepared sets: $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    stated = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return Path(stated).expanduser()


def folder_of(name: str, data_dir: str | Path = "") -> Path:
    """The folder of a prepared set; it need not be there."""
    root = Path(data_dir).expanduser() if data_dir else default_data_dir()
    return root / name / VERSION


def prepared_names(data_dir: str | Path = "") -> list[str]:
    """Names of the sets that lie prepared in a folder."""
    root = folder_of("", data_dir).parent
    return sorted(path.parts[-3] for path in root.glob(f"*/{VERSION}/metadata.json"))


def read_metadata(folder: Path) -> dict[str, Any]:
    """Licence, citation, mpp, classes, splits and index of a prepared set; UserError for damage."""
    path = folder / "metadata.json"
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
        missing = {"mpp", "classes", "fields", "splits", "index"} - set(metadata)
        if missing:
            raise ValueError(f"no {', '.join(sorted(missing))}")
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{path} is not the metadata of a prepared set ({error}): prepare the set again with "
            "--overwrite"
        ) from error
    return metadata


class PreparedSource(CachedSource):
    """A split of a prepared set: NAME, or NAME/VARIANT for another arrangement of its parts.

    Arguments as `open_source`; no image is read. Without a val part its train images are split by
    group.
    """

    def __init__(
        self,
        name: str,
        *,
        split: str,
        data_dir: str | Path = "",
        seed: int = 0,
        group_pattern: str | None = "",
        cache_bytes: int = 2**31,
        crop: int | None = None,
        scale: int = 4,
    ):
        super().__init__(cache_bytes)
        base, _, variant = name.partition("/")
        self._name = name
        self._folder = folder_of(base, data_dir)
        metadata = read_metadata(self._folder)
        if variant not in metadata["splits"]:
            there = [f"{base}/{key}" if key else base for key in metadata["splits"]]
            raise UserError(
                f"data set {base} has no variant {variant!r}: choose one of {', '.join(there)}"
            )
        entries = {
            entry["name"]: {**entry, "part": part, "row": row}
            for part in sorted(metadata["index"])
            for row, entry in enumerate(metadata["index"][part])
        }
        groups = {
            image: group_of(image, group_pattern) if group_pattern else entry["group"]
            for image, entry in entries.items()
        }
        splits = metadata["splits"][variant]
        split_of = {part: role for role, parts in splits.items() for part in parts}
        self.names = names_of_split(
            f"data set {name}",
            split,
            {image: split_of.get(entry["part"]) for image, entry in entries.items()},
            groups,
            carve="val" not in splits,
            published=True,
            seed=seed,
        )
        self._entries = [entries[image] for image in self.names]
        for entry in self._entries:
            if crop is not None and min(entry["height"], entry["width"]) < crop:
                raise UserError(
                    f"image {entry['name']!r} of {name}, {entry['height']} x {entry['width']} px, "
                    f"is smaller than the crop of {crop} px: lower data.crop or prepare the set "
                    "without it"
                )
        self.groups = [groups[image] for image in self.names]
        self.mpp = metadata["mpp"]
        self.classes = list(metadata["classes"])
        self.objects = metadata.get("objects", "nuclei")
        self._scale = scale
        self._parts: ComputedOnce[dict[str, Any]] = ComputedOnce()

    def __getstate__(self) -> dict[str, Any]:
        # Each process opens the files for itself.
        return {**self.__dict__, "_parts": ComputedOnce()}

    def digests(self, index: int) -> tuple[str, str]:
        entry = self._entries[index]
        return entry["image"], entry["labels"]

    def _read(self, index: int) -> Record:
        entry = self._entries[index]
        try:
            parts = self._parts.get("", lambda: _data_sources(self._folder))
            stored = parts[entry["part"]][entry["row"]]
            record: Record = {"name": entry["name"]}
            for field in [field for field in ("hr", "instances", "mask", "lr") if field in stored]:
                value = stored[field]
                png = isinstance(value, bytes)
                record[field] = imagecodecs.png_decode(value) if png else np.array(value)
            if stored["name"].decode() != entry["name"]:
                raise ValueError(f"another image, {stored['name'].decode()}, is in its place")
        # The readers below raise whatever their formats do of a file that is damaged or gone.
        except Exception as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise UserError(
                f"image {entry['name']!r} of {self._folder} cannot be read ({reason}): prepare the "
                "set again with --overwrite"
            ) from error
        if "lr" in record:
            low, high = record["lr"].shape, record["hr"].shape
            if low[:2] != (high[0] // self._scale, high[1] // self._scale):
                raise UserError(
                    f"the low-resolution image of {entry['name']!r} is {low[0]} x {low[1]} px, and "
                    f"1/{self._scale} of {high[0]} x {high[1]} px is due, rounded down: set "
                    f"data.scale to what {self._name} was made with"
                )
        return record


def _data_sources(folder: Path) -> dict[str, Any]:
    # Half a second, which what reads no prepared set does not spend.
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(folder)
    # PNG is left to imagecodecs: tfds would take OpenCV, and warn where that is missing.
    images = [name for name, f in builder.info.features.items() if f.__class__.__name__ == "Image"]
    decoders = {name: tfds.decode.SkipDecoding() for name in images}
    return builder.as_data_source(decoders=decoders, file_format="array_record")
