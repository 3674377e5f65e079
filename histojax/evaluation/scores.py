"""Scores of trained runs on a data set, on whole images, tile by tile.

The low-resolution input is made from each image by the run's own degradation, always alike for the
same image, or read where the data has real ones. A chained workdir is scored row by row: bicubic
and the other baselines, every generator, every way to a mask, the mask found in the real image, and
the classical method.
"""

import contextlib
import hashlib
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from absl import logging
from ml_collections import ConfigDict

from histojax import files, processes
from histojax.cli import say
from histojax.components import content
from histojax.components.images import tells_classes
from histojax.config import read_config, to_values
from histojax.data import identity
from histojax.data.registration import check_registration
from histojax.data.sources.base import Source
from histojax.errors import UserError
from histojax.evaluation.images import (
    differences_of,
    gathered,
    pooled_of,
    score_images,
    summary_of,
)
from histojax.evaluation.rows import comparisons, methods_of, own_features
from histojax.imaging import enlargement, figures, writers
from histojax.runs import run_data, workdirs
from histojax.stages.base import segments

# Splits that ask for images of the training.
SEEN_SPLITS = ("train", "all")
SEEN = "seen in training"
# The last bytes of a SPEC that the name of a folder takes over.
_NAME_BYTES = 60


def score_workdir(
    workdir: pathlib.Path,
    *,
    data: str | None = None,
    split: str = "val",
    enhancer: str | None = None,
    features: Sequence[str] = (),
    ensemble: bool = False,
    max_pixels: int | None = None,
    max_shift: float | None = None,
    output: pathlib.Path | None = None,
    like: ConfigDict | None = None,
    kept: run_data.Kept | None = None,
    allow_seen: bool = False,
) -> dict[str, Any]:
    """Evaluates a workdir and writes metrics.json, per_image.csv and figures/ to `output`.

    Several processes share the images; all have the table, and the first writes it.

    Args:
        workdir: a run's folder, or a chain's.
        data, split: SPEC, by default the run's own, and the part of it.
        enhancer, ensemble: as in `methods_of`.
        features: NAME or NAME=WEIGHTS of further feature networks.
        max_pixels: largest image of a folder, px; default the run's own.
        max_shift: how far a real lr image may lie off its hr image, hr px; default the run's own.
        output: default workdir/evaluation.
        like: a config of the same scale, whose data, degradation and seed replace the run's own,
            with its splits `kept`.
        allow_seen: whether to score images that were seen in training, which are marked.

    Returns:
        The content of metrics.json.
    """
    folders = {name: workdirs.load(folder) for name, folder in stage_folders(workdir).items()}
    last = next(reversed(folders.values()))
    if workdir.is_file() and data is None and like is None:
        raise UserError(f"--data is missing: the model {workdirs.name_of(workdir)} holds no images")
    config = (like or last.config).copy_and_resolve_references()
    if data is not None:
        config.data.source = data
    if max_pixels is not None:
        config.data.max_pixels = max_pixels
    needs_masks = any(segments(run.stage) for run in folders.values())
    fields, known = ("instances",) if needs_masks else (), last.meta["data"]
    own = config.data.source == last.config.data.source
    if like is None and own:
        kept = known["splits"]
    if like is None and not own:
        source, own = opened_elsewhere(config, split, known, fields)
    else:
        source = run_data.open_split(config, split, fields=fields, kept=kept)
    if len(source) == 0:
        raise UserError(
            f"{config.data.source} has no image in the split {split}: take another --split "
            "or --data"
        )
    if source.left_out:
        say(f"{config.data.source}: left out: {', '.join(source.left_out)}")
    for run in folders.values():
        check_same_classes(run, source, config.data.source)
    places = [run.workdir for run in folders.values()]
    if enhancer is not None and enhancer not in ("none", *enlargement.ENHANCERS):
        places.append(workdirs.stage_folder(workdirs.place_of(enhancer)))
    seen = run_data.seen_in(source, places, one_set=own, allowed=allow_seen or split in SEEN_SPLITS)
    if own and split == "val":
        _warn_of_changes(known["val"], source, config.data.source)
    if enhancer != "none":
        shift = config.data.max_shift if max_shift is None else max_shift
        check_registration(source, config.data.scale, shift)
    networks = own_features(folders)
    for entry in features:
        name, _, path = entry.partition("=")
        field = f"--features={name}"
        networks[name] = content.pretrained_features(name, path=path, path_field=field)
    methods = methods_of(
        folders, source, config, enhancer=enhancer, features=networks, ensemble=ensemble
    )
    output = output or workdir / "evaluation"
    record = data_record(config, source, split)
    files.check_writable(output)
    scored = []
    for one in score_images(methods, source, config):
        name = one.scores["name"]
        title = f"{name} ({SEEN})" if name in seen else name
        figures.write_comparison(output / "figures" / f"{name}.png", title, one.pictures)
        scored.append(one._replace(pictures={}))  # which take memory
    results, matrices = gathered(scored)
    table = {
        "metrics": {**summary_of(results), **pooled_of(matrices, source.classes)},
        "differences": differences_of(results, comparisons(methods)),
        "ensemble": ensemble,
        "enhancer": enhancer,
        "checkpoints": {name: run.step for name, run in folders.items()},
        "data": record,
        "seen": seen,
    }
    if not processes.first():
        return table
    marked = ({**row, "seen": SEEN if row["name"] in seen else ""} for row in results)
    writers.write_csv(output / "per_image.csv", list(marked))
    writers.write_json(output / "metrics.json", table)
    return table


def opened_elsewhere(
    config: ConfigDict, split: str, known: run_data.Manifest, fields: Sequence[str]
) -> tuple[Source, bool]:
    """A split of other data than a run's, and whether these are the run's, in another place."""
    with contextlib.suppress(UserError):
        source = run_data.open_split(config, split, fields=fields, kept=known["splits"])
        pixels = {entry["image"] for part in ("train", "val") for entry in known[part]}
        if any(entry["image"] in pixels for entry in identity.entries_of(source)):
            return source, True
    return run_data.open_split(config, split, fields=fields), False


def _warn_of_changes(known: identity.Entries, source: Source, spec: str) -> None:
    if changed := identity.changes(known, identity.entries_of(source)):
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        text = f"{'; '.join(changed[:3])}{more}"
        logging.warning("%s has changed since training: %s", spec, text)


def stage_folders(workdir: pathlib.Path) -> dict[str, pathlib.Path]:
    """The folders of the trained runs below a workdir by name: those of a chain, or the one."""
    if workdirs.is_stage(workdir):
        return {workdirs.config_of(workdir).name: workdir}
    config = read_config(workdir / "config.json")
    chain = {name: workdir / name for name in config.get("chain", [])}
    found = {name: folder for name, folder in chain.items() if (folder / "checkpoints").is_dir()}
    if not found:
        raise UserError(f"{workdir} holds no trained stage yet; train it with histojax.main")
    return found


def check_same_classes(run: workdirs.Run, source: Source, spec: str) -> None:
    """Refuses data that has other classes than a run finds."""
    tells = segments(run.stage) and tells_classes(run.stage.segmenter.heads)
    if tells and (own := run.meta["classes"]) != list(source.classes):
        raise UserError(
            f"{run.workdir} tells the classes {', '.join(own)} apart, and {spec} has "
            f"{', '.join(source.classes)}: score it on data with the same ones, named alike and in "
            "the same order"
        )


def own_folder(
    workdir: pathlib.Path,
    split: str = "val",
    *,
    data: str | None = None,
    enhancer: str | None = None,
    ensemble: bool = False,
) -> pathlib.Path:
    """The folder of a scoring in its workdir: "evaluation", then what differs from training.

    Scores of other images, or found in another way, do not replace those of training, which
    reports show: evaluation-test, evaluation-enhancer_none-ensemble.
    """
    if workdir.is_file():
        name = workdirs.name_of(workdir)
        raise UserError(f"--output is missing: {name} has no folder for scores, so name one")
    own = workdirs.config_of(workdir).data.source
    words = [
        *([_file_word(data)] if data not in (None, own) else []),
        *([split] if split != "val" else []),
        *([f"enhancer_{_file_word(enhancer)}"] if enhancer else []),
        *(["ensemble"] if ensemble else []),
    ]
    return workdir / "-".join(["evaluation", *words])


def _file_word(text: str) -> str:
    """A text as part of a file's name; where it had to be changed, with a digest of it."""
    word = re.sub(r"[^\w.]+", "_", text).strip("_")
    word = word.encode()[-_NAME_BYTES:].decode(errors="ignore")
    digest = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:8]
    return word if word == text else f"{word}_{digest}"


def data_record(config: ConfigDict, source: Source, split: str) -> dict[str, Any]:
    """What decides the pairs of images that are scored, without the place of a folder."""
    return {
        "source": "folder" if "folder:" in config.data.source else config.data.source,
        "split": split,
        "images": len(source),
        "fingerprint": source.fingerprint(),
        "scale": config.data.scale,
        "degradation": to_values(config.data.degradation),
        "seed": config.seed,
    }
