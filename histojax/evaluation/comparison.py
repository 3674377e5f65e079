"""Several runs compared on the same images: scores, paired differences with a test, pictures.

Every run is scored on the data, the degradation and the seed of the first. The scores in a run's
`evaluation` folder are read if they are of those images and of the newest checkpoint. Otherwise the
run is evaluated, and its scores go below the output folder.
"""

import csv
import dataclasses
import itertools
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from histojax import cli, files
from histojax.cli import say
from histojax.config import differences, read_config, to_values
from histojax.data import degradation
from histojax.data.pairs import image_pair
from histojax.data.sources.base import Source
from histojax.errors import UserError
from histojax.evaluation import comparison_table, rows, scores
from histojax.evaluation.comparison_table import Scores
from histojax.imaging import enlargement, figures, writers
from histojax.report import comparison_page
from histojax.runs import run_data, workdirs
from histojax.stages.base import enhances, segments


@dataclasses.dataclass(frozen=True)
class Entry:
    """A run that is compared: its label, its workdir, and the config of its last stage."""

    label: str
    workdir: pathlib.Path
    config: ConfigDict


def compare(
    places: Sequence[pathlib.Path],
    output: pathlib.Path,
    *,
    data: str | None = None,
    split: str = "val",
    pictures: int = 3,
    allow_seen: bool = False,
) -> dict[str, Any]:
    """Compares runs and writes report.html, comparison.json, comparison.csv and figures/.

    Args:
        places: two or more workdirs of runs or chains; differences are taken from the first.
        output: folder of the results.
        data, split: SPEC that all are scored on, and the part of it; by default that of the first
            run, on which the others have to be trained as well.
        pictures: number of images that are shown through each run, evenly chosen.
        allow_seen: whether to score images that a run was trained on, which a note says.

    Returns:
        The content of comparison.json.
    """
    entries = entries_of(places)
    reference = entries[0].config.copy_and_resolve_references()
    if data is not None:
        reference.data.source = data
    _check_scales(entries)
    known = run_data.manifest_of(workdirs.stage_folder(entries[0].workdir)) or {}
    kept = known.get("splits")
    if reference.data.source != entries[0].config.data.source:
        kept = kept if scores.opened_elsewhere(reference, split, known, ())[1] else None
    source = run_data.open_split(reference, split, kept=kept)
    if data is None:
        _check_data(entries, source, split)
    allowed = allow_seen or split in scores.SEEN_SPLITS
    seen = {entry.label: _seen(entry, reference, source, allowed) for entry in entries}
    files.check_writable(output)
    wanted = scores.data_record(reference, source, split)
    found, dropped = {}, set()
    for entry in entries:
        images = recorded(entry.workdir, wanted, source.names, data=data)
        if images is None:
            say(f"{entry.label}: scoring the {split} split")
            place = output / "scores" / entry.label
            scores.score_workdir(
                entry.workdir,
                split=split,
                output=place,
                like=reference,
                kept=kept,
                allow_seen=True,
            )
            images = read_per_image(place / "per_image.csv")
        config = entry.config
        found[entry.label], left_out = comparison_table.arranged(images, config.name, config.stage)
        dropped |= left_out
    comparison_table.check_baselines(found)
    shared = comparison_table.shared_rows(found)
    if not shared.keys() - {"hr"}:
        kinds = ", ".join(f"{entry.label} ({entry.config.stage})" for entry in entries)
        raise UserError(
            f"{kinds} have no score in common; compare runs that enhance with runs that enhance, "
            "and runs that segment with runs that segment"
        )
    result = {
        "runs": [_described(entry, entries[0]) for entry in entries],
        "against": entries[0].label,
        "data": wanted,
        "test": comparison_table.about_the_test(len(source)),
        "notes": [
            *comparison_table.same_runs(
                {entry.label: to_values(entry.config) for entry in entries},
                {label: {k: v.tolist() for k, v in own.items()} for label, own in found.items()},
            ),
            *_warnings(entries, reference, source, seen),
            *comparison_table.omissions(found, dropped),
        ],
        "scores": comparison_table.means(found, shared),
        "baselines": comparison_table.baselines(found, shared),
        "differences": comparison_table.differences(found, shared),
        "pictures": _draw(entries, reference, source, found, output, pictures),
        "command": cli.repeatable(),
    }
    writers.write_json(output / "comparison.json", result)
    writers.write_csv(output / "comparison.csv", comparison_table.flat(result))
    folders = {entry.label: scores.stage_folders(entry.workdir) for entry in entries}
    comparison_page.write(output / "report.html", result, folders)
    return result


def entries_of(places: Sequence[pathlib.Path]) -> list[Entry]:
    """The runs of two or more workdirs, labelled by the shortest ends of paths that differ."""
    if len(places) < 2:
        raise UserError(
            f"{len(places)} workdir was named, and two or more are compared; name them as in "
            "python -m histojax.compare runs/a runs/b --output=out"
        )
    paths = [pathlib.Path(workdirs.name_of(place.resolve())) for place in places]
    for path, place in zip(paths, places, strict=True):
        if paths.count(path) > 1:
            raise UserError(f"{place} is named twice; name each workdir once")
    length = next(n for n in itertools.count(1) if len({p.parts[-n:] for p in paths}) == len(paths))
    labels = ["/".join(path.parts[-length:]).lstrip("/") for path in paths]
    return [Entry(label, p, workdirs.config_of(p)) for label, p in zip(labels, places, strict=True)]


def recorded(
    workdir: pathlib.Path, wanted: Mapping[str, Any], names: Sequence[str], data: str | None = None
) -> list[dict[str, Any]] | None:
    """A workdir's per-image scores of a split; None unless of these images and checkpoints.

    The images are of the record `wanted` of `scores.data_record`, with `names` in order, and of the
    SPEC `data` where it is not the run's own.
    """
    if workdir.is_file():
        return None
    folder = scores.own_folder(workdir, wanted["split"], data=data)
    try:
        table = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        images = read_per_image(folder / "per_image.csv")
    except (OSError, ValueError, KeyError):
        return None
    folders = scores.stage_folders(workdir)
    steps = {name: workdirs.step_of(place) for name, place in folders.items()}
    fits = (
        isinstance(table, dict)
        and table.get("checkpoints") == steps
        and not table.get("ensemble")
        and table.get("enhancer") is None
        and same_pairs(table.get("data") or {}, wanted)
        and [image["name"] for image in images] == list(names)
    )
    return images if fits else None


def same_pairs(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two records of `scores.data_record` are of the same pairs of images."""
    fields = ["split", "fingerprint", "scale"]
    if other["degradation"]["name"] not in degradation.FIXED:
        fields.append("seed")
    return all(one.get(field) == other[field] for field in fields) and same_degradation(
        one.get("degradation") or {}, other["degradation"]
    )


def same_degradation(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two resolved `config.data.degradation` do the same, random draws apart."""
    if other["name"] in degradation.FIXED:
        return one.get("name") == other["name"]
    return one == other


def read_per_image(path: pathlib.Path) -> list[dict[str, Any]]:
    """The rows of a per_image.csv; an empty cell is NaN."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    words = ("name", "group", "seen")
    return [{k: v if k in words else float(v or "nan") for k, v in row.items()} for row in rows]


def _check_scales(entries: Sequence[Entry]) -> None:
    first, *others = entries
    for entry in others:
        if entry.config.data.scale != first.config.data.scale:
            raise UserError(
                f"{entry.label} enhances x{entry.config.data.scale} and {first.label} "
                f"x{first.config.data.scale}, so they do not start from the same image; compare "
                "runs of one scale"
            )


def _check_data(entries: Sequence[Entry], source: Source, split: str) -> None:
    first, *others = entries
    for entry in others:
        kept = run_data.kept_splits(workdirs.stage_folder(entry.workdir))
        own = run_data.open_split(entry.config, split, kept=kept)
        if own.fingerprint() != source.fingerprint():
            raise UserError(
                f"{entry.label} has other images in its {split} split ({len(own)} of "
                f"{entry.config.data.source}, seed {entry.config.seed}) than {first.label} "
                f"({len(source)} of {first.config.data.source}, seed {first.config.seed}); "
                "give --data=SPEC to score all on the same images"
            )


def _warnings(
    entries: Sequence[Entry], reference: ConfigDict, source: Source, seen: Mapping[str, Any]
) -> list[str]:
    """Reasons to doubt the numbers, one sentence each."""
    notes = []
    scored = to_values(reference.data.degradation)
    for entry in entries:
        data = entry.config.data
        if data.source != reference.data.source:
            notes.append(
                f"{entry.label} was trained on {data.source} and is scored on "
                f"{reference.data.source}."
            )
        if not same_degradation(to_values(data.degradation), scored):
            notes.append(
                f"{entry.label} was trained for another degradation ({data.degradation.name}) than "
                f"it is scored on ({reference.data.degradation.name}, of {entries[0].label})."
            )
        if of_entry := seen[entry.label]:
            notes.append(
                f"{entry.label} has seen {len(of_entry)} of these {len(source)} images in training "
                f"({', '.join(list(of_entry)[:3])}): its scores are too good."
            )
    patients = len(set(source.groups))
    if patients < len(source):
        notes.append(
            f"The {len(source)} images come from {patients} group{'s' * (patients > 1)} and are "
            "taken as independent: intervals are somewhat narrow and p somewhat small."
        )
    return notes


def _seen(entry: Entry, reference: ConfigDict, source: Source, allowed: bool) -> dict[str, str]:
    """The images that a run has seen in training, as `run_data.seen_in` has them."""
    folders = scores.stage_folders(entry.workdir).values()
    one_set = entry.config.data.source == reference.data.source
    return run_data.seen_in(source, folders, one_set=one_set, allowed=allowed)


def _described(entry: Entry, first: Entry) -> dict[str, Any]:
    """A run, and the fields in which its config differs from the first run's."""
    folder = workdirs.stage_folder(entry.workdir)
    path = folder / "summary.json"
    summary = read_config(path) if path.exists() else {}
    own, other = (to_values(e.config) for e in (entry, first))
    return {
        "label": entry.label,
        "workdir": workdirs.name_of(entry.workdir),
        "name": entry.config.name,
        "stage": entry.config.stage,
        "steps": entry.config.steps,
        "checkpoint_step": workdirs.step_of(folder),
        "seconds": summary.get("seconds"),
        "parameters": sum((summary.get("parameters") or {}).values()) or None,
        "differs_in": differences(other, own) if entry is not first else [],
    }


def _draw(
    entries: Sequence[Entry],
    reference: ConfigDict,
    source: Source,
    found: Mapping[str, Scores],
    output: pathlib.Path,
    count: int,
) -> list[str]:
    """Draws `count` images through each run's last stage, and returns the paths below `output`."""
    chosen = np.linspace(0, len(source) - 1, min(count, len(source))).round().astype(int).tolist()
    recipe = degradation.Degradation.from_config(reference.data.degradation, reference.data.scale)
    pairs = {i: image_pair(source[i], recipe, reference.seed) for i in chosen}
    scale = reference.data.scale
    images = {
        i: {"lr": lr, "bicubic": enlargement.bicubic(lr, scale)} for i, (_, lr, _) in pairs.items()
    }
    masks: dict[int, dict[str, np.ndarray]] = {i: {} for i in chosen}
    hr_sizes = [hr.shape[:2] for hr, _, _ in pairs.values()]
    lr_sizes = [lr.shape[:2] for _, lr, _ in pairs.values()]
    for entry in entries:
        run = workdirs.load(entry.workdir)
        enhance = rows.run_enhancer(run, lr_sizes) if enhances(run.stage) else None
        segment = rows.run_segmenter(run, hr_sizes, mpp=source.mpp) if segments(run.stage) else None
        own, absent = found[entry.label], np.full(len(source), np.nan)
        psnr = own.get(("sr", "psnr_rgb"), absent)
        dice = own.get(("hr_to_s" if enhance is None else "sr_to_s", "dice"), absent)
        for i, (hr, lr, _) in pairs.items():
            seen = hr
            if enhance is not None:
                seen = enhance(lr)
                images[i][_caption(entry.label, psnr[i], "{:.2f} dB")] = seen
            if segment is not None:
                caption = _caption(entry.label, dice[i], "Dice {:.3f}")
                masks[i][caption] = writers.overlay(seen, segment(seen).instances)
    drawn = []
    for i, (hr, _, truth) in pairs.items():
        pictures = {**images[i], "hr": hr}
        if masks[i] and truth is not None:
            pictures["annotation"] = writers.overlay(hr, truth)
        name = source.names[i]
        drawn.append(f"figures/{name}.png")
        figures.write_comparison(output / drawn[-1], name, {**pictures, **masks[i]})
    return drawn


def _caption(label: str, score: float, form: str) -> str:
    return f"{label}, {form.format(score) if math.isfinite(score) else 'no score'}"
