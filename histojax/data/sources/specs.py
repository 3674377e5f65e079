"""Opens the data that a SPEC names: a folder, a prepared set, synthetic tissue or a mixture."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from histojax.data.sources.base import Source
from histojax.data.sources.folder import FolderSource
from histojax.data.sources.mixture import open_mixture
from histojax.data.sources.prepared import DATASETS, PreparedSource, folder_of, prepared_names
from histojax.data.sources.synthetic import SyntheticSource
from histojax.errors import UserError
from histojax.imaging.reader import MAX_PIXELS


def open_source(
    spec: str,
    *,
    split: str,
    seed: int = 0,
    group_pattern: str | None = "",
    synthetic: Mapping[str, Any] | None = None,
    cache_bytes: int = 2**31,
    require_labels: bool = True,
    crop: int | None = None,
    scale: int = 4,
    data_dir: str | Path = "",
    max_pixels: int = MAX_PIXELS,
    kept: Mapping[str, Sequence[str]] | None = None,
) -> Source:
    """Opens the data that a SPEC names; UserError for an unknown one or a flaw in the data.

    Args:
        spec: "synthetic" (the built-in tissue), "folder:ROOT", the NAME of a set that
            `histojax.prepare` has prepared, or "mix:SPEC=WEIGHT,..." of several.
        split: "train", "val", "test" or "all" (every image, in a split or not).
        seed: of the synthetic tissue, or of the split by group of a set without splits of its own.
        group_pattern: finds an image's group in its name; see `splits.group_of`.
        synthetic: further arguments of `SyntheticSource`.
        cache_bytes: bound on the decoded images that a process keeps of files.
        require_labels: whether an image without instances or mask is an error.
        crop: smallest side that every image must have, px of "hr".
        scale: r, size of "hr" over that of "lr", which shows the upper left of "hr".
        data_dir: folder of prepared sets; empty: $TFDS_DATA_DIR, else ~/tensorflow_datasets.
        max_pixels: largest image or label map that a folder may hold, px.
        kept: {split: names} that a run was trained with, for a folder without splits.json.
    """
    files: dict[str, Any] = dict(seed=seed, group_pattern=group_pattern, scale=scale, crop=crop)
    if spec.startswith("mix:"):
        share = cache_bytes // max(1, spec.count("="))
        files |= {"synthetic": synthetic, "data_dir": data_dir, "max_pixels": max_pixels}
        files |= {"require_labels": require_labels, "cache_bytes": share}
        return open_mixture(spec, functools.partial(open_source, **files), split)
    if spec == "synthetic":
        options = dict(synthetic or {})
        size = options.get("size")
        if crop is not None and size is not None and size < crop:
            raise UserError(
                f"data.synthetic.size={size} px is smaller than data.crop={crop} px: raise the "
                "size or lower the crop"
            )
        return SyntheticSource(split=split, seed=seed, **options)
    files |= {"split": split, "cache_bytes": cache_bytes}
    kind, _, root = spec.partition(":")
    if kind == "folder" and root:
        files |= {"require_labels": require_labels, "max_pixels": max_pixels, "kept": kept}
        return FolderSource(root, **files)
    base = spec.partition("/")[0]
    if base in prepared_names(data_dir):
        return PreparedSource(spec, **files, data_dir=data_dir)
    if base in DATASETS:
        raise UserError(
            f"data set {base!r} is not prepared in {folder_of(base, data_dir).parents[1]}: run "
            f"python -m histojax.prepare --dataset={base} --source=PATH, or set data.data_dir"
        )
    hint = f", here folder:{spec}" if spec and Path(spec).is_dir() else ""
    raise UserError(
        f'data source {spec!r} is unknown: give "synthetic", or "folder:ROOT" with a folder that '
        f"holds images/{hint}, or the name of a prepared set"
    )
