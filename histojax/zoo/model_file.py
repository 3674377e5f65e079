"""A trained model in one file: its weights in safetensors, all that its use needs in the header."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from flax import traverse_util
from safetensors import SafetensorError, numpy, safe_open

from histojax import files
from histojax.config import FORMAT, check_format
from histojax.errors import UserError

SUFFIX = ".safetensors"
_HEADER = "histojax"
Tree = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Model:
    """What a file holds.

    Attributes:
        config: resolved values of the run's config, without places on the disk it was trained on.
        meta: of its checkpoint (thresholds, mpp_in, mpp_out, the images it has seen, ...), and
            "instances", how its maps become nuclei, where that was fitted.
        about: "licence", "summary", "step", "created" and "histojax", its version.
        variables: network -> collection -> arrays, float32.
        landmarks: by which near copies of its training images are found, as bytes (uint8).
        probe: "input" uint8 (1, h, w, 3), and what the model made of it as it was written.
    """

    config: Tree
    meta: Tree
    about: Tree
    variables: dict[str, Tree]
    landmarks: dict[str, np.ndarray]
    probe: dict[str, np.ndarray]


def licence_of(models: Iterable[Mapping[str, str]]) -> str:
    """The licences of models as one, as SPDX joins them; empty where none is stated."""
    return " AND ".join(sorted({model["licence"] for model in models} - {""}))


def write(path: pathlib.Path, model: Model, *, half: bool) -> None:
    """Writes a model; `half`: parameters in 16 bits, statistics stay in 32.

    Raises:
        DiskError: the disk refuses.
    """
    arrays: dict[str, np.ndarray] = {}
    for network, variables in model.variables.items():
        for name, array in traverse_util.flatten_dict(variables, sep="/").items():
            kind = np.float16 if half and name.startswith("params/") else np.float32
            arrays[f"{network}/{name}"] = np.asarray(array, kind)
    for part, found in (("landmarks", model.landmarks), ("probe", model.probe)):
        arrays |= {f".{part}/{name}": np.ascontiguousarray(a) for name, a in found.items()}
    parts = {"config": model.config, "meta": model.meta, "about": model.about}
    header = {_HEADER: json.dumps({"format": FORMAT, **parts})}
    with files.disk_errors(path):
        path.write_bytes(numpy.save(arrays, header))


def read(path: pathlib.Path) -> Model:
    """The model in a file; UserError: missing, damaged, or of another format."""
    try:
        status = path.stat()
    except OSError as error:
        raise UserError(f"the model {path} cannot be read ({error.strerror})") from error
    return _read(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _read(path: pathlib.Path, size: int, changed: int) -> Model:
    del size, changed  # keys of the cache
    arrays: dict[str, dict[str, np.ndarray]] = {}
    try:
        with safe_open(path, framework="numpy") as file:
            header = json.loads((file.metadata() or {})[_HEADER])
            check_format(header["format"], path)
            config, meta, about = (dict(header[part]) for part in ("config", "meta", "about"))
            about["step"] = int(about["step"])
            for key in file.keys():  # noqa: SIM118 (no mapping)
                part, _, name = key.partition("/")
                arrays.setdefault(part, {})[name] = file.get_tensor(key)
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{path} is damaged or no model file ({error}): get it again, or install histojax again"
        ) from error
    except KeyError as error:
        raise UserError(
            f"{path} holds arrays, and no model of histojax: make one with histojax.export"
        ) from error
    landmarks, probe = (arrays.pop(f".{part}", {}) for part in ("landmarks", "probe"))
    variables = {network: _tree(named) for network, named in arrays.items()}
    return Model(config, meta, about, variables, landmarks, probe)


def _tree(named: dict[str, np.ndarray]) -> Tree:
    full = {name: array.astype(np.float32) for name, array in named.items()}
    return traverse_util.unflatten_dict(full, sep="/")
