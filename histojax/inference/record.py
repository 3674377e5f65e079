"""What a prediction was made of, in NAME.predicted.json, so that it is made once."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from histojax import __version__
from histojax.imaging import writers
from histojax.inference import labeling
from histojax.inference.prediction import Prediction, is_near
from histojax.inference.scale import Estimate
from histojax.runs import workdirs
from histojax.stages.base import segments

# What a record that is missing, damaged or of another version raises.
_UNUSABLE = (OSError, ValueError, KeyError, TypeError, AttributeError)


def model_digest(run: workdirs.Run) -> str:
    """SHA-256 of all that a run's predictions follow from: weights, meta and what was fitted."""
    fitted = labeling.parameters_of(run) if segments(run.stage) else None
    digest = hashlib.sha256(repr((__version__, run.step, run.meta, fitted)).encode())
    for name in sorted(run.state.params):
        for leaf in jax.tree.leaves(run.state.variables(name, averaged=True)):
            digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


def image_digest(path: pathlib.Path) -> str:
    """SHA-256 of a file's bytes; empty where it cannot be read, which its reader will refuse."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return ""


def write(
    path: pathlib.Path, made: Prediction, made_of: Mapping[str, Any], **found: Estimate | None
) -> None:
    """Writes the record of results that are whole, as they follow from `made_of`.

    `found` are the estimates of the image ("own") and the one that was used.
    """
    sizes = {kind: (file.name, file.stat().st_size) for kind, file in made.files.items()}
    each = {name: value and dataclasses.asdict(value) for name, value in found.items()}
    values = dataclasses.asdict(made) | {"files": sizes, "made_of": made_of} | each
    writers.write_json(path, values)


def estimate_of(path: pathlib.Path, made_of: Mapping[str, Any]) -> Estimate | None:
    """The estimate that was recorded for the same image and model."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        same = all(values["made_of"][key] == made_of[key] for key in ("image", "model"))
        # What the user gives is of no nuclei, and no estimate.
        return Estimate(**values["own"]) if same and values["own"]["nuclei"] else None
    except _UNUSABLE:
        return None


def standing(
    path: pathlib.Path, made_of: Mapping[str, Any], used: Estimate | None
) -> Prediction | None:
    """What a record tells, if it was made of the same and its files are there and whole.

    An estimate for many images changes a little with them, and still stands.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        before = values["used"] and Estimate(**values["used"])
        same = values["made_of"] == json.loads(json.dumps(made_of)) and _alike(before, used)
        files = {kind: path.with_name(name) for kind, (name, _) in values["files"].items()}
        sizes = [size for _, size in values["files"].values()]
        if not same or [file.stat().st_size for file in files.values()] != sizes:
            return None
        kept = {field.name: values[field.name] for field in dataclasses.fields(Prediction)}
        kept |= {name: tuple(kept[name]) for name in ("size", "class_names")}
        return Prediction(**kept | {"files": files, "before": True})
    except _UNUSABLE:
        return None


def _alike(a: Estimate | None, b: Estimate | None) -> bool:
    one, other = (e.diameter if e is not None and e.sure else None for e in (a, b))
    return one == other or (one is not None and other is not None and is_near(one / other))
