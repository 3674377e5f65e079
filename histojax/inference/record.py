"""What a prediction was made of, in NAME.predicted.json, so that it is made once."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from histojax import __version__, files
from histojax.imaging import openslide_file, writers
from histojax.inference import labeling
from histojax.inference.prediction import Prediction
from histojax.inference.scale import Estimate
from histojax.runs import workdirs
from histojax.stages.base import segments


def model_digest(run: workdirs.Run) -> str:
    """SHA-256 of all that a run's predictions follow from: weights, meta and what was fitted."""
    fitted = labeling.parameters_of(run) if segments(run.stage) else None
    digest = hashlib.sha256(repr((__version__, run.step, run.meta, fitted)).encode())
    for name in sorted(run.state.params):
        for leaf in jax.tree.leaves(run.state.variables(name, averaged=True)):
            digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


def image_digest(path: pathlib.Path) -> str:
    """SHA-256 of a file's bytes; empty where it cannot be read, which its reader will refuse.

    A slide's other files, of many GB, count by their names, sizes and times.
    """
    try:
        digest = files.digest_of(path)
        others = [(other, other.stat()) for other in openslide_file.others_of(path)]
    except OSError:
        return ""
    if not others:
        return digest
    facts = [
        (str(other.relative_to(path.parent)), stat.st_size, stat.st_mtime_ns)
        for other, stat in others
    ]
    return hashlib.sha256(repr((digest, facts)).encode()).hexdigest()


def write(
    path: pathlib.Path,
    made: Prediction,
    made_of: Mapping[str, Any],
    estimate: Estimate | None,
    kept: Sequence[str] = (),
) -> None:
    """Writes the record of results that are whole, as they follow from `made_of`.

    `estimate` is the size of the image's own nuclei, where it was asked for; `kept` are names of
    earlier files that agree with these.
    """
    sizes = {kind: (file.name, file.stat().st_size) for kind, file in made.files.items()}
    more = {"files": sizes, "made_of": made_of, "estimate": estimate and vars(estimate)}
    writers.write_json(path, vars(made) | more | {"kept": kept})


def forget(path: pathlib.Path, made_of: Mapping[str, Any]) -> list[str]:
    """Removes a record, so that it does not outlive the results that it is about.

    The files that it names go too where they were made of something else than `made_of`, its
    `outputs` apart: beside new results they would contradict them. The names of those that stay.
    """
    names: list[str] = []
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        names = [*values.get("kept", ()), *(name for name, _ in values["files"].values())]
        before = values["made_of"] | {"outputs": None}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        before = None
    path.unlink(missing_ok=True)
    if before == json.loads(json.dumps({**made_of, "outputs": None})):
        return sorted(set(names))
    for name in names:
        path.with_name(name).unlink(missing_ok=True)
    return []


def standing(
    path: pathlib.Path, made_of: Mapping[str, Any]
) -> tuple[Prediction, Estimate | None] | None:
    """What `write` was given, if it was made of the same and its files are there and whole."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        files = {kind: path.with_name(name) for kind, (name, _) in values["files"].items()}
        sizes = [size for _, size in values["files"].values()]
        if [file.stat().st_size for file in files.values()] != sizes:
            return None
        if values["made_of"] != json.loads(json.dumps(made_of)):
            return None
        kept = {field.name: values[field.name] for field in dataclasses.fields(Prediction)}
        kept |= {name: tuple(kept[name]) for name in ("size", "box", "class_names")}
        estimate = values["estimate"] and Estimate(**values["estimate"])
        return Prediction(**kept | {"files": files, "before": True}), estimate
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # missing, damaged, or of another version
