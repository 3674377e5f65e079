"""Writes a data set as array_record through tensorflow_datasets, which needs no TensorFlow for it.

A prepared set is DIR/NAME/2.0.0: records of features, and metadata.json with the name, group, size
and digest of every record: a set is opened without decoding an image.
"""

import contextlib
import functools
import io
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tensorflow_datasets as tfds
import tqdm

from histojax.data.datasets.layout import Contents, Dataset, Example
from histojax.data.sources.base import digests_of
from histojax.data.sources.prepared import VERSION
from histojax.data.sources.splits import tcga_patient
from histojax.errors import UserError
from histojax.files import disk_errors

_IMAGES = ("hr", "lr")
_Shards = dict[str, list[Callable[[], Iterator[tuple[int, dict]]]]]
_SHARD_BYTES = 2**28
_DTYPES = {"instances": np.int32, "mask": np.uint8}


@contextlib.contextmanager
def scratch_in(data_dir: Path) -> Iterator[Path]:
    """Gives a folder inside `data_dir` (made where it is missing) that is removed at the end."""
    with disk_errors(data_dir):
        data_dir.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(prefix=".preparing-", dir=data_dir)
    with scratch as folder:
        try:
            yield Path(folder)
        except OSError as error:
            if error.filename and not str(error.filename).startswith(str(data_dir)):
                raise  # of the source, which is not written to
            with disk_errors(data_dir):
                raise


def write(dataset: Dataset, contents: Contents, folder: Path, scratch: Path, *, name: str) -> Path:
    """Writes a set to `folder`, which is replaced where it is there, and returns that.

    `scratch` is a folder on the same disk, to write in first. `name` opens the set. UserError for
    an example that cannot be read, a flaw in the set as a whole, or a disk that refuses.
    """
    _check(dataset, contents)
    tfds.disable_progress_bar()
    with tqdm.tqdm(total=len(contents.examples), desc="preparing", unit=" images") as bar:
        builder = _Builder(dataset, contents, name, bar, data_dir=scratch)
        try:
            # tfds reports on standard output, which belongs to what the command itself prints.
            with contextlib.redirect_stdout(io.StringIO()):
                builder.download_and_prepare(
                    download_config=tfds.download.DownloadConfig(try_download_gcs=False)
                )
        except RuntimeError as error:  # of array_record's writer, as of a full disk
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"Writing to {scratch.parent} failed ({reason}): free space there or give another "
                "--data_dir"
            ) from error
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.exists():
        os.replace(folder, scratch / "replaced")
    os.replace(builder.data_dir, folder)
    return folder


def _check(dataset: Dataset, contents: Contents) -> None:
    """Refuses an empty set, a name twice, and a patient in two splits of a variant."""
    if not contents.examples:
        raise UserError(f"no image of {dataset.name} is left: give a source that holds some")
    name, count = Counter(example.name for example in contents.examples).most_common(1)[0]
    if count > 1:
        raise UserError(f"{count} images of the source are called {name!r}: keep or rename one")
    for splits in contents.splits.values():
        split_of = {part: split for split, parts in splits.items() for part in parts}
        sides: dict[str, str] = {}
        for example in contents.examples:
            patient, split = tcga_patient(example.group), split_of.get(example.part)
            if patient is None or split is None:
                continue
            other = sides.setdefault(patient, split)
            if other != split:
                raise UserError(
                    f"patient {patient} is in {other!r} and, by {example.name!r}, in {split!r}: "
                    "take the patient's images out of one of them"
                )


class _Builder(tfds.core.ShardBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """The tfds builder of any set: one tfds split for each part of it, in the given order.

    GeneratorBasedBuilder would need TensorFlow from 1 GiB on, where it begins to shuffle on disk.
    """

    VERSION = tfds.core.Version(VERSION)

    def __init__(
        self, dataset: Dataset, contents: Contents, name: str, bar: tqdm.tqdm, *, data_dir: Any
    ):
        self.name = name
        self._dataset, self._contents, self._bar = dataset, contents, bar
        self._parts = sorted({example.part for example in contents.examples})
        self._index: dict[str, list[dict[str, Any]]] = {part: [] for part in self._parts}
        first = contents.examples[0].load()
        self._fields = tuple(first)
        # The examples of a shard are held until it is written.
        self._per_shard = max(1, _SHARD_BYTES // sum(array.nbytes for array in first.values()))
        super().__init__(data_dir=data_dir, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text()
        features: dict[str, Any] = {"name": text, "group": text}
        for field in self._fields:
            if field in _IMAGES:
                features[field] = tfds.features.Image(
                    shape=(None, None, 3), dtype=np.uint8, encoding_format="png"
                )
            else:
                features[field] = tfds.features.Tensor(
                    shape=(None, None), dtype=_DTYPES[field], encoding="zlib"
                )
        dataset, contents = self._dataset, self._contents
        said = ("title", "licence", "citation", "homepage")
        metadata = {
            "dataset": dataset.name,
            **{field: getattr(dataset, field) for field in said},
            "mpp": contents.mpp,
            "classes": list(contents.classes),
            "objects": contents.objects,
            "fields": list(self._fields),
            "splits": contents.splits,
            "index": self._index,
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=dataset.title,
            homepage=dataset.homepage,
            citation=dataset.citation,
            license=dataset.licence,
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(metadata),
        )

    def _shard_iterators_per_split(self, dl_manager: Any) -> _Shards:
        del dl_manager
        shards: _Shards = {}
        for part in self._parts:
            examples = [e for e in self._contents.examples if e.part == part]
            shards[part] = [
                functools.partial(self._records, part, examples[start : start + self._per_shard])
                for start in range(0, len(examples), self._per_shard)
            ]
        return shards

    def _records(self, part: str, examples: Sequence[Example]) -> Iterator[tuple[int, dict]]:
        for key, example in enumerate(examples):
            record = example.load()
            if differing := sorted(set(self._fields) ^ set(record)):
                raise UserError(
                    f"{differing[0]!r} is there for some images and, as {example.name!r} shows, "
                    "not for all: give it for all of them or for none"
                )
            named: dict[str, Any] = {"name": example.name, "group": example.group}
            (height, width), (image, labels) = record["hr"].shape[:2], digests_of(record)
            known = {"height": height, "width": width, "image": image, "labels": labels}
            self._index[part].append(named | known)
            pngs = {f: imagecodecs.png_encode(record[f], level=6) for f in _IMAGES if f in record}
            yield key, named | record | pngs
            self._bar.update()
