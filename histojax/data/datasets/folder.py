"""Any set laid out as `folder:ROOT` expects (see `histojax.data.sources.folder`)."""

import functools
from pathlib import Path

from histojax.data.datasets import layout
from histojax.data.sources.folder import FolderSource
from histojax.data.sources.splits import SPLITS, group_of


def read(root: Path, max_pixels: int) -> layout.Contents:
    """Reads the folder as `folder:ROOT` would; splits.json, where there is one, names the parts."""
    if not (root / "images").is_dir():
        inner = [path.parent for path in sorted(root.rglob("images")) if path.is_dir()]
        if len(inner) != 1:
            raise layout.unrecognised(root, DATASET.layout)
        root = inner[0]
    # Every image its own group: patients in two splits are refused when the set is written, once
    # those that the user excludes are left out.
    source = FolderSource(
        root, split="all", group_pattern=".*", cache_bytes=0, scale=None, max_pixels=max_pixels
    )
    splits = {"train": source.names} if source.splits is None else source.splits
    parts = {name: split for split, names in splits.items() for name in names}
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
        splits={"": {split: [split] for split in SPLITS if split in splits}},
    )


def _load(source: FolderSource, index: int) -> layout.Record:
    return {field: array for field, array in source[index].items() if field != "name"}


DATASET = layout.Dataset(
    name="folder",
    title="a folder of images and annotations",
    licence="its owner's",
    citation="none stated",
    homepage="",
    layout="images/NAME with instances/NAME or masks/NAME, as for folder:ROOT",
    read=read,
)
