"""Prepares a published data set from its official files, so that it opens by its name.

    python -m histojax.prepare --dataset=NAME --source=PATH [--data_dir=DIR]

reads a folder or an archive as it was downloaded, writes array_record below DIR, and prints the
set's fingerprint, licence and citation.
"""

from __future__ import annotations

import dataclasses
import importlib
import pathlib
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

from absl import flags

from histojax import cli
from histojax.data.datasets import layout
from histojax.data.sources import prepared
from histojax.errors import UserError
from histojax.imaging.reader import MAX_PIXELS

_DATASET = flags.DEFINE_string("dataset", None, f"One of {', '.join(prepared.DATASETS)}.")
_SOURCE = flags.DEFINE_string("source", None, "Folder or archive, as it was downloaded.")
_DATA_DIR = flags.DEFINE_string(
    "data_dir", "", "Folder of prepared sets; $TFDS_DATA_DIR or ~/tensorflow_datasets."
)
_NAME = flags.DEFINE_string("name", None, "Name to open it by; default that of the data set.")
_EXCLUDE = flags.DEFINE_list(
    "exclude", [], "Patients to leave out, or prepared sets whose patients are left out."
)
_MAX_PIXELS = flags.DEFINE_integer(
    "max_pixels", MAX_PIXELS, "Largest image or label map that is decoded, px.", lower_bound=1
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace a prepared set of the same name.")


def dataset_of(name: str) -> layout.Dataset:
    """The data set of a name.

    Raises:
      UserError: there is none.
    """
    if name not in prepared.DATASETS:
        raise UserError(
            f"--dataset={name!r} is not known: choose one of {', '.join(prepared.DATASETS)}"
        )
    return importlib.import_module(f"histojax.data.datasets.{name}").DATASET


def prepare(
    dataset: str,
    source: str | pathlib.Path,
    data_dir: str | pathlib.Path = "",
    *,
    name: str | None = None,
    exclude: Sequence[str] = (),
    max_pixels: int = MAX_PIXELS,
    overwrite: bool = False,
) -> pathlib.Path:
    """Prepares a set and returns its folder; progress goes to standard error.

    Args:
      dataset: one of `histojax.data.sources.prepared.DATASETS`.
      source: folder or archive in the set's official layout.
      data_dir: folder of prepared sets; empty: see `prepared.default_data_dir`.
      name: to open it by; the data set's where None.
      exclude: groups (patients) to leave out, or names of prepared sets whose groups are.
      max_pixels: largest image or label map that is decoded, px.
      overwrite: whether a prepared set of that name is replaced.

    Raises:
      UserError: for whatever is wrong with the source or the disk, in one sentence.
    """
    chosen = dataset_of(dataset)
    name = dataset if name is None else name
    source = pathlib.Path(source).expanduser()
    layout.check_source(source)
    if not prepared.NAME.fullmatch(name):
        raise UserError(
            f"--name={name!r} is not a name of small letters, digits and underscores that begins "
            "with a letter: give another"
        )
    folder = prepared.folder_of(name, data_dir)
    if folder.exists() and not overwrite:
        raise UserError(f"{folder} exists: give --overwrite to prepare it anew, or another --name")
    from histojax.data.datasets import writing  # half a second, after what is wrong at once

    bar = Bar(sys.stderr)
    with (
        writing.scratch_in(folder.parents[1]) as scratch,
        layout.opened(source, scratch) as root,
    ):
        contents = _without(chosen.read(root, max_pixels), exclude, data_dir)
        return writing.write(chosen, contents, folder, scratch, name=name, progress=bar.show)


def _without(
    contents: layout.Contents, exclude: Sequence[str], data_dir: str | pathlib.Path
) -> layout.Contents:
    """Leaves groups out; each must be there, except those that a prepared set is named for."""
    left_out: set[str] = set()
    there = {example.group for example in contents.examples}
    for entry in exclude:
        if entry in prepared.prepared_names(data_dir):
            index = prepared.read_metadata(prepared.folder_of(entry, data_dir))["index"]
            left_out |= {record["group"] for part in index.values() for record in part}
        elif entry in there:
            left_out.add(entry)
        else:
            raise UserError(
                f"--exclude={entry} is neither a prepared set nor a patient of this one: name a "
                f"set or one of {', '.join(sorted(there)[:3])}, ..."
            )
    kept = [example for example in contents.examples if example.group not in left_out]
    return dataclasses.replace(contents, examples=kept)


class Bar:
    """A progress bar: one line that rewrites itself on a terminal, else a line for each tenth."""

    def __init__(self, stream: Any):
        self._stream = stream
        self._live = stream.isatty()
        self._tenth = -1

    def show(self, done: int, total: int, what: str) -> None:
        """Shows `done` of `total`, and what is next; "" where it is the end."""
        tenth = 10 * done // total
        filled = 3 * tenth
        if self._live:
            end = "" if what else "\n"
            text = f"\r\x1b[K[{'#' * filled}{'.' * (30 - filled)}] {done}/{total} {what[:40]}{end}"
            self._stream.write(text)
        elif tenth > self._tenth:
            self._stream.write(f"prepared {done} of {total}\n")
        self._tenth = tenth
        self._stream.flush()


def description(folder: pathlib.Path) -> str:
    """What a prepared set is: images and groups of each part, fingerprint, licence, citation."""
    metadata = prepared.read_metadata(folder)
    entries = [entry for part in metadata["index"].values() for entry in part]
    counts = Counter({part: len(index) for part, index in metadata["index"].items()})
    mpp, here = metadata["mpp"], folder.parents[1]
    lines = {
        metadata["title"]: str(folder),
        "images": f"{len(entries)} ({', '.join(f'{part} {n}' for part, n in counts.items())})",
        "groups": str(len({entry["group"] for entry in entries})),
        "scale": "not stated" if mpp is None else f"{mpp:g} um per pixel",
        "fingerprint": prepared.fingerprint_of(entries),
        "licence": metadata["licence"],
        "please cite": metadata["citation"],
        "open it as": f"--config.data.source={folder.parent.name}"
        + ("" if here == prepared.default_data_dir() else f" --config.data.data_dir={here}"),
    }
    return "\n".join(f"{what}: {value}" for what, value in lines.items())


def main(argv: Sequence[str]) -> None:
    """Parses flags and prepares."""
    del argv
    folder = prepare(
        _DATASET.value,
        _SOURCE.value,
        _DATA_DIR.value,
        name=_NAME.value,
        exclude=_EXCLUDE.value,
        max_pixels=_MAX_PIXELS.value,
        overwrite=_OVERWRITE.value,
    )
    print(description(folder))


if __name__ == "__main__":
    flags.mark_flags_as_required(["dataset", "source"])
    cli.run(main)
