"""The data of a run: its splits, opened as its config has them."""

import dataclasses
import functools
import logging
import pathlib
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from histojax import files
from histojax.config import read_config
from histojax.data import copies, identity, survey
from histojax.data.sources import specs, subsets, targets
from histojax.data.sources.base import Entry, Source
from histojax.errors import UserError
from histojax.imaging import writers
from histojax.runs.workdirs import config_of, name_of, newest, stage_folder
from histojax.zoo import model_file

_log = logging.getLogger(__name__)

# In a workdir: the images that a run knows, see `Known.manifest`.
MANIFEST = "manifest.json"
# Landmarks of the images that it has learnt from, by the digest of their pixels.
LANDMARKS = "landmarks.npz"
Manifest = dict[str, Any]
Kept = Mapping[str, Sequence[str]]
# Parts of a manifest that a run has learnt from, itself or by what it starts from.
_LEARNT = ("train", "unlabelled", "extra", "before")
_LISTED = 10  # changes in a message


@dataclasses.dataclass(frozen=True)
class Known:
    """What a run knows of its data before its first step.

    Attributes:
        manifest: lists of entries (see `identity.entries_of`) "train", "val", where there are any
            "unlabelled" and "extra", and "before", seen by what the run starts from; "models" has
            the model files that it descends from, "splits" the names of the train and val splits
            of data.source, labelled or not, and "kind" mpp, classes and objects.
        sentence: what it trains on.
        nuclei: what checkpoints keep of their size, px; see `survey.Survey`.
        landmarks: of the images that it learns from, and those before.
    """

    manifest: Manifest
    sentence: str
    nuclei: Mapping[str, float | None]
    landmarks: identity.Landmarks


def open_split(
    config: ConfigDict,
    split: str,
    *,
    fields: Sequence[str] = (),
    crop: int | None = None,
    kept: Kept | None = None,
) -> Source:
    """A split ("train", "val", "test" or "all") of the data that a config names.

    A label among `fields`, the batch arrays that a stage needs, requires every image to be
    annotated. The field "labelled" adds the unlabelled images to the training split. Images with a
    side below `crop` px are refused, as whatever else is wrong with the data (UserError). `kept`
    are the splits that a run was trained with, for a folder without splits.json.
    """
    data = config.data
    made = [field for field in targets.FIELDS if field in fields]
    required = bool(made) or "mask" in fields or "instances" in fields
    opened = _opener(config, require_labels=required, crop=crop)
    source = opened(data.source, split=split, kept=kept)
    if split == "train":
        source = subsets.labelled_part(source, data.labelled, config.seed)
        if data.extra:
            extra = opened(data.extra, split="all")
            source = subsets.with_extra(source, extra, data.extra_weight)
    if "labelled" in fields and split == "train":
        others = open_unlabelled(config, crop=crop, kept=kept)
        source = subsets.with_unlabelled(source, others, data.unlabelled_weight)
    elif "labelled" in fields:
        source = subsets.FlaggedSource(source, labelled=True)
    if made or ("mask" in fields and data.targets.legacy):
        return targets.TargetSource(source, made, data.targets)
    return source


def open_unlabelled(
    config: ConfigDict, *, crop: int | None = None, kept: Kept | None = None
) -> Source:
    """The images of `data.unlabelled`, learnt from without the labels that they may have."""
    data = config.data
    return subsets.open_unlabelled(
        data.unlabelled,
        _opener(config, require_labels=False, crop=crop),
        labelled=data.source,
        kept=kept,
        share=data.labelled,
        seed=config.seed,
    )


def labelled_source(workdir: pathlib.Path) -> Source:
    """The labelled images that a run was trained on, without those of data.extra."""
    folder = stage_folder(workdir)
    config = without_extra(config_of(folder))
    return open_split(config, "train", fields=("instances",), kept=kept_splits(folder))


def manifest_of(folder: pathlib.Path) -> Manifest | None:
    """The images that the run in a folder or model file knows; None before it has begun."""
    if folder.is_file():
        return model_file.read(folder).meta["data"]
    path = folder / MANIFEST
    if path.is_file():
        return read_config(path)
    series = newest(folder)
    return series.meta()["data"] if series.steps() else None


def write(known: Known, workdir: pathlib.Path) -> None:
    """Writes what a new run knows of its data; DiskError where the disk refuses."""
    with files.atomic_path(workdir / LANDMARKS) as part, part.open("wb") as stream:
        np.savez_compressed(stream, **known.landmarks)
    writers.write_json(workdir / MANIFEST, known.manifest)


def kept_splits(folder: pathlib.Path) -> Kept | None:
    """{split: names} that the run in a folder was trained with; None before it has begun."""
    known = manifest_of(folder)
    return None if known is None else known["splits"]


def seen_by(manifest: Manifest) -> list[Entry]:
    """The images that a run has learnt from, and those that it starts from."""
    return [*manifest.get("train", []), *_of_others(manifest)]


def _of_others(manifest: Manifest) -> list[Entry]:
    """Those that need not be of the set that it trains on, whose numbers mean other images."""
    return [entry for part in _LEARNT[1:] for entry in manifest.get(part, [])]


def known_data(
    config: ConfigDict,
    *,
    kept: Kept | None,
    before: Sequence[Entry] = (),
    models: Sequence[Mapping[str, str]] = (),
    landmarks: identity.Landmarks | None = None,
) -> Known:
    """Reads all images and labels of a run, and checks that none that it trains on is scored.

    Args:
        kept: as in `open_split`.
        before: images that were seen by the runs that it starts from.
        models: model files that it descends from, as `models_in`.
        landmarks: of these; None where near copies are not searched for, as in a run that goes on.

    Raises:
        UserError: labels that cannot be meant, or an image of val that is seen in training.
    """
    plain, needs_labels = without_extra(config), "segmenter" in config or "pyramid" in config
    fields = ("instances",) if needs_labels else ()
    with plain.ignore_type():
        plain.data.labelled = 1.0
    whole, val = (open_split(plain, split, fields=fields, kept=kept) for split in ("train", "val"))
    train = subsets.labelled_part(whole, config.data.labelled, config.seed)
    others: dict[str, Source] = {}
    if config.data.unlabelled:
        others["unlabelled"] = open_unlabelled(config, kept=kept)
    if config.data.extra:
        others["extra"] = _opener(config, require_labels=False, crop=None)(
            config.data.extra, split="all"
        )
    sources = {"train": train, "val": val, **others}
    manifest: Manifest = {name: identity.entries_of(part) for name, part in sources.items()}
    unique = {(entry["name"], entry["image"]): entry for entry in before}
    for source in (train, *others.values()):
        unique |= {(entry["name"], entry["image"]): entry for entry in source.seen}
    manifest["before"] = list(unique.values())
    manifest["models"] = list({model["sha256"]: model for model in models}.values())
    parts = {"train": whole, "val": val}
    manifest["splits"] = {name: sorted(set(part.names)) for name, part in parts.items()}
    manifest["kind"] = {"mpp": train.mpp, "classes": list(train.classes), "objects": train.objects}
    marks, own = dict(landmarks or {}), {}
    if landmarks is not None:
        own = identity.landmarks_of(val, manifest["val"])
        for name in ("train", *others):
            marks |= identity.landmarks_of(sources[name], manifest[name])
    if twice := identity.repeated(manifest["train"]):
        more = f" and {len(twice) - 1} more" if len(twice) > 1 else ""
        _log.warning("%s (train): %s%s; take one out", config.data.source, twice[0], more)
    _check_held_out(manifest, (own, marks), config.data.source)
    parts["train"] = train
    found = {
        split: survey.survey(part, f"{config.data.source} ({split})", needs_labels=needs_labels)
        for split, part in parts.items()
    }
    further = [f"{len(part)} further images of data.{name}" for name, part in others.items()]
    trains = " and ".join([found["train"].words, *further])
    scale = "unknown scale" if train.mpp is None else f"{train.mpp:g} um/px"
    left_out = f"; left out: {', '.join(train.left_out)}" if train.left_out else ""
    sentence = f"trains on {trains}, validates on {found['val'].words}, {scale}{left_out}"
    return Known(manifest, sentence, found["train"].sizes, marks)


def models_in(place: pathlib.Path) -> list[dict[str, str]]:
    """The model files that a run, or model file, descends from or is: name, sha256 and licence."""
    known = list((manifest_of(place) or {}).get("models", []))
    if place.is_file():
        licence = model_file.read(place).about.get("licence", "")
        known.append({"name": place.stem, "sha256": files.digest_of(place), "licence": licence})
    return known


def landmarks_in(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """The landmarks that the run in a folder or model file keeps of what it has learnt from."""
    if folder.is_file():
        kept = model_file.read(folder).landmarks
        return {digest: array.view(copies.LANDMARK) for digest, array in kept.items()}
    path = folder / LANDMARKS
    if not path.is_file():
        return {}
    try:
        with np.load(path) as kept:
            return dict(kept)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} is damaged ({error}): remove it, and near copies of these images are no "
            "longer found"
        ) from error


def _check_held_out(
    manifest: Manifest, landmarks: tuple[identity.Landmarks, identity.Landmarks], spec: str
) -> None:
    """Refuses a val split that is trained on, or that what the run starts from has seen."""
    what, val = f"of the val split of {spec}", manifest["val"]
    found = identity.seen_among(val, manifest["train"], one_set=True, landmarks=landmarks)
    remedy = "take them out of one of the two, by splits.json or in the data"
    identity.refuse(found, len(val), what, remedy)
    found = identity.seen_among(val, _of_others(manifest), landmarks=landmarks)
    remedy = "name other further images, start from another run, or move them to train"
    identity.refuse(found, len(val), what, remedy)


def seen_in(
    scored: Source, folders: Iterable[pathlib.Path], *, one_set: bool, allowed: bool
) -> dict[str, str]:
    """{name of an image to score: how one that a run has seen is the same}.

    Args:
        folders: of all the runs that are scored.
        one_set: whether the images are of the data that these were trained on.
        allowed: whether such images may be scored.

    Raises:
        UserError: they may not, and there are some.
    """
    entries, seen = identity.entries_of(scored), dict[str, str]()
    remedy = "score others, or give --allow_seen, which marks them in all results"
    for folder in folders:
        manifest, kept = manifest_of(folder) or {"train": []}, landmarks_in(folder)
        marks = (identity.landmarks_of(scored, entries) if kept else {}, kept)
        own = identity.seen_among(entries, manifest["train"], one_set=one_set, landmarks=marks)
        found = identity.seen_among(entries, _of_others(manifest), landmarks=marks) | own
        if not allowed:
            identity.refuse(found, len(entries), "to score", remedy, by=f" of {name_of(folder)}")
        seen |= found
    return seen


def unchanged(known: Manifest, found: Known, workdir: pathlib.Path) -> Known:
    """What a run knew as it began, if the data are the same; UserError with the list of changes."""
    now = found.manifest
    kinds = known["kind"].items()
    listed = [f"{k}: {v} -> {now['kind'][k]}" for k, v in kinds if now["kind"][k] != v]
    listed += [
        f"{part}: {change}"
        for part in (*_LEARNT[:-1], "val")
        for change in identity.changes(known.get(part, []), now.get(part, []))
    ]
    # Of models only where it is known now what the run starts from.
    before = {model["sha256"] for model in known.get("models", [])}
    listed += [
        f"init_from: another {model['name']} than it began with"
        for model in now.get("models", [])
        if model["sha256"] not in before
    ]
    if listed:
        more = f"; and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
        raise UserError(
            f"the data of {workdir} has changed since the run began ({'; '.join(listed[:_LISTED])}"
            f"{more}): put it back, or train in a new --workdir"
        )
    return dataclasses.replace(found, manifest=known, landmarks=landmarks_in(workdir))


def without_extra(config: ConfigDict) -> ConfigDict:
    """The config without the further training images of data.extra."""
    plain = config.copy_and_resolve_references()
    plain.data.extra = ""
    return plain


def _opener(config: ConfigDict, *, require_labels: bool, crop: int | None) -> Callable[..., Source]:
    """What opens a SPEC as a config has it: (spec, split=, ...) -> Source."""
    data = config.data
    return functools.partial(
        specs.open_source,
        seed=config.seed,
        group_pattern=data.group_pattern,
        synthetic=data.synthetic.to_dict(),
        require_labels=require_labels,
        crop=crop,
        scale=data.scale,
        data_dir=data.data_dir,
        max_pixels=data.max_pixels,
    )
