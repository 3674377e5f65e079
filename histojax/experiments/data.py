"""What the stages of a chain know of their data, read before any of them is trained."""

import pathlib
from collections.abc import Mapping

import numpy as np
from ml_collections import ConfigDict

from histojax.data.sources.base import Entry
from histojax.runs import run_data, workdirs


def study(
    ordered: list[ConfigDict], folders: Mapping[str, pathlib.Path]
) -> dict[str, run_data.Known]:
    """What each stage knows of its data; `folders` are those of the stages, by name.

    A folder of images without splits.json keeps the splits that the first stage was trained with.

    Raises:
        UserError: data that cannot be trained on, or that has changed since a stage began.
    """
    begun = {name: run_data.manifest_of(folder) for name, folder in folders.items()}
    first = {
        stage.data.source: known["splits"]
        for stage in reversed(ordered)
        if (known := begun[stage.name]) is not None
    }
    found: dict[str, run_data.Known] = {}
    for stage in ordered:
        before: list[Entry] = []
        marks: dict[str, np.ndarray] = {}
        for start in filter(None, stage.init_from.values()):
            if isinstance(start, ConfigDict):
                before += run_data.seen_by(found[start.name].manifest)
                marks |= found[start.name].landmarks
            else:
                place = workdirs.stage_folder(pathlib.Path(start).expanduser())
                before += run_data.seen_by(run_data.manifest_of(place) or {})
                marks |= run_data.landmarks_in(place)
        known = begun[stage.name]
        kept = first.get(stage.data.source) if known is None else known["splits"]
        search = marks if known is None else None
        now = run_data.known_data(stage, kept=kept, before=before, landmarks=search)
        if known is not None:
            now = run_data.unchanged(known, now, folders[stage.name])
        found[stage.name] = now
    return found
