"""Prepares a published set from its official files, so that it opens by its name."""

import dataclasses
import importlib
from collections.abc import Sequence
from pathlib import Path

from histojax.checks import check, one_of
from histojax.data.datasets import layout
from histojax.data.sources import prepared
from histojax.errors import UserError
from histojax.imaging.reader import MAX_PIXELS


def prepare(
    dataset: str,
    source: str | Path,
    data_dir: str | Path = "",
    *,
    name: str | None = None,
    exclude: Sequence[str] = (),
    max_pixels: int = MAX_PIXELS,
    overwrite: bool = False,
) -> Path:
    """Prepares a set from its official layout and returns its folder; progress goes to stderr.

    Whatever is wrong with the source or the disk is a UserError.

    Args:
        dataset: one of `prepared.DATASETS`.
        data_dir: folder of prepared sets; empty: see `prepared.default_data_dir`.
        name: to open it by; None: the data set's.
        exclude: groups (patients) to leave out, or names of prepared sets whose groups are.
        max_pixels: largest image or label map that is decoded, px.
    """
    check({"dataset": dataset}, {"dataset": one_of(prepared.DATASETS)}, "--")
    chosen = importlib.import_module(f"histojax.data.datasets.{dataset}").DATASET
    name = dataset if name is None else name
    source = Path(source).expanduser()
    layout.check_source(source)
    if not prepared.NAME.fullmatch(name):
        raise UserError(
            f"--name={name!r} is not a name of small letters, digits and underscores that begins "
            "with a letter: give another"
        )
    folder = prepared.folder_of(name, data_dir)
    if folder.exists() and not overwrite:
        raise UserError(f"{folder} exists: give --overwrite to replace it, or another --name")
    from histojax.data.datasets import writing  # half a second, after what is wrong at once

    scratch_in = writing.scratch_in(folder.parents[1])
    with scratch_in as scratch, layout.opened(source, scratch) as root:
        contents = _without(chosen.read(root, max_pixels), exclude, data_dir)
        return writing.write(chosen, contents, folder, scratch, name=name)


def _without(
    contents: layout.Contents, exclude: Sequence[str], data_dir: str | Path
) -> layout.Contents:
    """Leaves out groups of this set by name, and the groups of whole prepared sets."""
    left_out: set[str] = set()
    there = {example.group for example in contents.examples}
    for entry in exclude:
        if entry in prepared.prepared_names(data_dir):
            left_out |= set(prepared.PreparedSource(entry, split="all", data_dir=data_dir).groups)
        elif entry in there:
            left_out.add(entry)
        else:
            raise UserError(
                f"--exclude={entry} is neither a prepared set nor a patient of this one: name a "
                f"set or one of {', '.join(sorted(there)[:3])}, ..."
            )
    kept = [example for example in contents.examples if example.group not in left_out]
    return dataclasses.replace(contents, examples=kept)


def description(folder: Path) -> str:
    """What a prepared set is: images and groups of each part, fingerprint, licence, citation."""
    metadata = prepared.read_metadata(folder)
    parts = [f"{part} {len(index)}" for part, index in metadata["index"].items()]
    here = folder.parents[1]
    source = prepared.PreparedSource(folder.parent.name, split="all", data_dir=here)
    place = "" if here == prepared.default_data_dir() else f" --config.data.data_dir={here}"
    lines = {
        metadata["title"]: str(folder),
        "images": f"{len(source)} ({', '.join(parts)})",
        "groups": str(len(set(source.groups))),
        "scale": "not stated" if source.mpp is None else f"{source.mpp:g} um per pixel",
        "fingerprint": source.fingerprint(),
        "licence": metadata["licence"],
        "please cite": metadata["citation"],
        "open it as": f"--config.data.source={folder.parent.name}{place}",
    }
    return "\n".join(f"{what}: {value}" for what, value in lines.items())
