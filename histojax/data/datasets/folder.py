"""Any set laid out as `folder:ROOT` expects (see `histojax.data.sources.folder`)."""

from __future__ import annotations

import functools
import pathlib

from histojax.data.datasets import layout
from histojax.data.sources.folder import FolderSource
from histojax.data.sources.splits import group_of
from histojax.imaging.reader import MAX_PIXELS

_LAYOUT = "images/NAME with instances/NAME or masks/NAME, as for folder:ROOT"


def read(root: pathlib.Path, max_pixels: int = MAX_PIXELS) -> layout.Contents:
    """Reads the folder as `folder:ROOT` would; splits.json, where there is one, names the parts."""
    if not (root / "images").is_dir():
        inner = [path.parent for path in sorted(root.rglob("images")) if path.is_dir()]
        if len(inner) != 1:
            raise layout.unrecognised(root, _LAYOUT)
        root = inner[0]
    # No two images of one group: patients in two splits are refused when the set is written, once
    # those that the user excludes are left out.
    source = FolderSource(
        root,
        split="all",
        group_pattern=".*",
        cache_bytes=0,
        scale=None,
        max_pixels=max_pixels,
    )
    parts = dict.fromkeys(source.names, "train")
    if source.splits is not None:
        parts = {name: split for split, names in source.splits.items() for name in names}
    splits = {part: [part] for part in ("train", "val", "test") if part in parts.values()}
    return layout.Contents(
        [
            layout.Example(
                name, group_of(name), parts[name], functools.partial(_load, source, index)
            )
            for index, name in enumerate(source.names)
            if name in parts
        ],
        mpp=source.mpp,
        classes=source.classes,
        objects=source.objects,
        splits={"": splits},
    )


def _load(source: FolderSource, index: int) -> layout.Record:
    record = source[index]
    del record["name"]
    return record


DATASET = layout.Dataset(
    name="folder",
    title="a folder of images and annotations",
    licence="its owner's",
    citation="none stated",
    homepage="",
    obtain="lay the images and label images out as folder:ROOT expects",
    layout=_LAYOUT,
    read=read,
)
