"""What the stages of a chain know of their data, read before any of them is trained."""

import pathlib
from collections.abc import Mapping

import numpy as np
from ml_collections import ConfigDict

from histojax.data.sources.base import Entry
from histojax.runs import run_data, workdirs


def kept_splits(
    ordered: list[ConfigDict], folders: Mapping[str, pathlib.Path]
) -> dict[str, run_data.Kept | None]:
    """{stage: splits that it was trained with, or an earlier stage of its data}; None: neither."""
    own = {stage.name: run_data.kept_splits(folders[stage.name]) for stage in ordered}
    first = {
        stage.data.source: kept
        for stage in reversed(ordered)
        if (kept := own[stage.name]) is not None
    }
    return {stage.name: own[stage.name] or first.get(stage.data.source) for stage in ordered}


def study(
    ordered: list[ConfigDict],
    folders: Mapping[str, pathlib.Path],
    kept: Mapping[str, run_data.Kept | None],
) -> dict[str, run_data.Known]:
    """What each stage knows of its data, by name, as are their `folders` and `kept_splits`.

    Raises:
        UserError: data that cannot be trained on, or that has changed since a stage began.
    """
    found: dict[str, run_data.Known] = {}
    for stage in ordered:
        before: list[Entry] = []
        models: list[dict[str, str]] = []
        marks: dict[str, np.ndarray] = {}
        for start in filter(None, stage.init_from.values()):
            if isinstance(start, ConfigDict):
                before += run_data.seen_by(found[start.name].manifest)
                models += found[start.name].manifest.get("models", [])
                marks |= found[start.name].landmarks
            else:
                place = workdirs.stage_folder(workdirs.place_of(start))
                before += run_data.seen_by(run_data.manifest_of(place) or {})
                models += run_data.models_in(place)
                marks |= run_data.landmarks_in(place)
        known = run_data.manifest_of(folders[stage.name])
        search = marks if known is None else None
        now = run_data.known_data(
            stage, kept=kept[stage.name], before=before, models=models, landmarks=search
        )
        if known is not None:
            now = run_data.unchanged(known, now, folders[stage.name])
        found[stage.name] = now
    return found
