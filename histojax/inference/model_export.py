"""A finished run as one model file, for use without its workdir."""

import datetime
import hashlib
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from histojax import __version__
from histojax.config import read_config, to_values
from histojax.inference import labeling
from histojax.runs import run_data, workdirs
from histojax.stages.base import segments
from histojax.tissue import rendering
from histojax.zoo import model_file

# Side of the built-in tissue that a model is tried on, px.
_PROBE = 64
# Outputs of 16-bit weights that differ by no more are the same: grey levels, probabilities.
_SAME_LEVELS, _SAME_PROBABILITY = 2, 0.02


def export(
    workdir: pathlib.Path, path: pathlib.Path, about: Mapping[str, Any], *, half: bool = True
) -> None:
    """Writes the best checkpoint of a finished run as a model file.

    The file holds what the networks of use need: weights, config, thresholds, scales, what was
    fitted, the images that were seen, and what the model makes of a probe. Places on this disk are
    left out of it.

    Args:
        workdir: of a run, or of a chain, whose last stage is taken.
        path: of the file.
        about: what is said of it, such as "licence" and "summary".
        half: whether its parameters take 16 bits.

    Raises:
        UserError: nothing is trained there, or another histojax wrote it.
        DiskError: the disk refuses.
    """
    run = workdirs.load(workdir)
    used = run.stage.averaged
    variables = {name: run.state.variables(name, averaged=True) for name in used}
    marks = run_data.landmarks_in(run.workdir)
    meta = {name: value for name, value in run.meta.items() if name not in ("config", "format")}
    if segments(run.stage) and labeling.fitted_parameters(run) is not None:
        meta["instances"] = _fitted(run)
    made = datetime.datetime.now(datetime.UTC).date().isoformat()
    model = model_file.Model(
        config=without_places(to_values(run.config)),
        meta=meta,
        about={"step": run.step, "created": made, "histojax": __version__, **about}
        | {"parents": _parents(run)},
        variables=jax.tree.map(np.asarray, variables),
        landmarks={name: array.view(np.uint8) for name, array in marks.items()},
        probe=probe(run),
    )
    model_file.write(path, model, half=half)


def probe(run: workdirs.Run, image: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """What a run makes of an image uint8 (1, h, w, 3), by default of a piece of built-in tissue."""
    if image is None:
        image = rendering.tissue(0, 0, _PROBE)["image"][None]
    made = run.stage.predict(run.state, jax.numpy.asarray(image))
    return {"input": image} | {name: np.asarray(value) for name, value in made.items()}


def agrees(model: model_file.Model, run: workdirs.Run) -> bool:
    """Whether a model that was read back makes of its probe what it made as it was written."""
    now = probe(run, model.probe["input"])
    return all(
        np.abs(now[name].astype(np.float64) - value).max()
        <= (_SAME_LEVELS if value.dtype == np.uint8 else _SAME_PROBABILITY)
        for name, value in model.probe.items()
    )


def digest_of(place: pathlib.Path) -> str:
    """SHA-256 of a model file."""
    return hashlib.sha256(place.read_bytes()).hexdigest()


def without_places(values: Any) -> Any:
    """Config values without paths: folder:/a/b as folder:b, and no runs to start from."""
    if isinstance(values, str):
        return re.sub(r"folder:[^=,]*?([^/=,]+)/*(?=[=,]|$)", r"folder:\1", values)
    if isinstance(values, dict):
        empty = {"init_from": {}, "data_dir": "", "path": ""}
        return {k: empty.get(k, without_places(value)) for k, value in values.items()}
    return [without_places(v) for v in values] if isinstance(values, list) else values


def _parents(run: workdirs.Run) -> dict[str, str]:
    """{network: SHA-256 of the model that it was fine-tuned from}."""
    if run.workdir.is_file():
        return model_file.read(run.workdir).about["parents"]
    named = {k: start for k, start in run.config.init_from.items() if isinstance(start, str)}
    places = {network: workdirs.place_of(start) for network, start in named.items() if start}
    return {network: digest_of(place) for network, place in places.items() if place.is_file()}


def _fitted(run: workdirs.Run) -> dict[str, Any]:
    place = workdirs.stage_folder(run.workdir)
    if place.is_file():
        return run.meta["instances"]
    found = read_config(place / labeling.FILE)
    return {name: found[name] for name in ("checkpoint", "kind", "parameters")}
