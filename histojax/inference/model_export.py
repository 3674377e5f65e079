"""A finished run as one model file, for use without its workdir."""

import dataclasses
import datetime
import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from histojax import __version__, files
from histojax.config import to_values
from histojax.errors import UserError
from histojax.inference import labeling
from histojax.nuclei import postprocessing
from histojax.runs import run_data, workdirs
from histojax.stages.base import enhances, segments
from histojax.tissue import rendering
from histojax.zoo import model_file

# Side of the built-in tissue that a model is tried on, px, which segmenters can read; of an
# enhancer's at least the second, and so many that a segmenter can read what it makes.
_PROBE, _LR_PROBE = 32, 16
# Outputs of 16-bit weights that differ by no more are the same: grey levels, probabilities.
_SAME_LEVELS, _SAME_PROBABILITY = 2, 0.02


def export(
    workdir: pathlib.Path, path: pathlib.Path, about: Mapping[str, str], *, half: bool = True
) -> None:
    """Writes the best checkpoint of a finished run as a model file.

    The file holds what the networks of use need: weights, config, thresholds, scales, what was
    fitted, the images that were seen, and what the model makes of a probe. Places on this disk are
    left out of it.

    Args:
        workdir: of a run, or of a chain, whose last stage is taken.
        path: of the file.
        about: its "summary", empty: that of the model that is exported once more; and its
            "licence", empty: those of the models that it descends from.
        half: whether its parameters take 16 bits.

    Raises:
        UserError: nothing is trained there, the licence leaves out one that it inherits, or 16 bits
            change what the run makes of the probe.
        DiskError: the disk refuses.
    """
    run = workdirs.load(workdir)
    used = workdirs.used_networks(run.state)
    variables = {name: run.state.variables(name, averaged=True) for name in used}
    marks = run_data.landmarks_in(run.workdir)
    # Nobody has built-in tissue on a slide, and its landmarks took half of the room.
    drawn = {entry["image"] for entry in _seen(run) if entry["name"].startswith("synthetic-")}
    marks = {digest: array for digest, array in marks.items() if digest not in drawn}
    meta = {name: value for name, value in run.meta.items() if name not in ("config", "format")}
    if segments(run.stage) and (fitted := labeling.fitted_parameters(run)) is not None:
        kind, values = postprocessing.kind_of(fitted), dataclasses.asdict(fitted)
        checkpoint = labeling.checkpoint_of(run)
        meta["instances"] = {"checkpoint": checkpoint, "kind": kind, "parameters": values}
    meta["data"] = {**meta["data"], "models": run_data.models_in(run.workdir)}
    model = model_file.Model(
        config=without_places(to_values(run.config)),
        meta=meta,
        about=about_of(run, about),
        variables=jax.tree.map(np.asarray, variables),
        landmarks={name: array.view(np.uint8) for name, array in marks.items()},
        probe=probe(run),
    )
    with files.atomic_path(path) as part:
        model_file.write(part, model, half=half)
        if half and not agrees(model_file.read(part), workdirs.load(part, say_licence=False)):
            raise UserError(
                f"{path} does not give the run's own results with parameters of 16 bits: give "
                "--nohalf"
            )


def about_of(run: workdirs.Run, about: Mapping[str, str]) -> dict[str, Any]:
    """The fields of `model_file.Model.about`; for `about` and raises see `export`."""
    own = model_file.read(run.workdir).about if run.workdir.is_file() else {}
    return {
        "summary": about["summary"] or own.get("summary", ""),
        "licence": _licence(about["licence"], run_data.models_in(run.workdir)),
        "step": run.step,
        "created": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "histojax": __version__,
    }


def _licence(given: str, parents: Sequence[Mapping[str, str]]) -> str:
    """The licence that is given, or else those of the models that a run descends from."""
    for parent in parents:
        if given and parent["licence"] not in given:
            raise UserError(
                f"--licence={given} leaves out {parent['licence']}, under which {parent['name']} "
                "is, from which this model descends: name both, or leave --licence out"
            )
    return given or model_file.licence_of(parents)


def _seen(run: workdirs.Run) -> list[Mapping[str, str]]:
    """Entries of all images that a run and those before it have learned from."""
    data = run.meta.get("data", {})
    return [entry for part in ("train", "extra", "before") for entry in data.get(part, [])]


def probe(run: workdirs.Run, image: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """What a run makes of an image uint8 (1, h, w, 3), by default of a piece of built-in tissue.

    Of a pyramid, which reads masks, it is nothing.
    """
    if image is None:
        side = _PROBE
        if enhances(run.stage):
            side = max(_LR_PROBE, _PROBE // math.gcd(_PROBE, run.config.data.scale))
        image = rendering.tissue(0, 0, _PROBE)["image"][None, :side, :side]
    made = {} if "pyramid" in run.config else run.stage.predict(run.state, jax.numpy.asarray(image))
    return {"input": image} | {name: np.asarray(value) for name, value in made.items()}


def agrees(model: model_file.Model, run: workdirs.Run) -> bool:
    """Whether a model that was read back makes of its probe what it made as it was written."""
    return alike(probe(run, model.probe["input"]), model.probe)


def alike(found: Mapping[str, np.ndarray], due: Mapping[str, np.ndarray]) -> bool:
    """Whether outputs by name are those that are due, up to what 16 bits may change."""
    return all(
        np.abs(found[name].astype(np.float64) - value).max()
        <= (_SAME_LEVELS if value.dtype == np.uint8 else _SAME_PROBABILITY)
        for name, value in due.items()
    )


def without_places(values: Any) -> Any:
    """Config values without paths: folder:/a/b as folder:b, /a/b as b, no runs to start from."""
    if isinstance(values, str):
        kind, _, rest = values.partition(":")
        if kind == "mix":
            parts = (part.rpartition("=") for part in rest.split(","))
            return "mix:" + ",".join(f"{without_places(spec)}={share}" for spec, _, share in parts)
        if kind == "folder":
            return f"folder:{pathlib.PurePath(rest).name}"
        return re.sub(r"^[/~].*/", "", values)
    if isinstance(values, dict):
        empty: dict[str, Any] = {"init_from": {}, "data_dir": "", "path": "", "project": ""}
        empty["entity"] = ""
        made = {k: empty.get(k, without_places(value)) for k, value in values.items()}
        if isinstance(target := made.get("target"), str):  # a patient, or the path of an image
            made["target"] = pathlib.PurePath(target).name
        return made
    return [without_places(v) for v in values] if isinstance(values, list) else values
