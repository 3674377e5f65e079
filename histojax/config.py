"""Configs as kept in a workdir: resolved, written, read back and compared."""

import json
import pathlib
import re
from typing import Any

from ml_collections import ConfigDict

from histojax import files
from histojax.errors import UserError

# Of config.json and of checkpoints; raised when either can no longer be read as before.
FORMAT = 3
# A run may resume with other values of these. They change how long, how loudly or where it runs,
# not its result (device_bytes can move the making of batches to the host).
FREE = (
    "steps",
    "log",
    "eval",
    "checkpoint.every",
    "checkpoint.keep",
    "lengths",
    "max_skipped",
    "max_pixels",
    "max_shift",
    "workers",
    "device_bytes",
    "collapse",
    "pretrained.path",
)
_ABSENT = object()


def to_values(config: ConfigDict) -> dict[str, Any]:
    """The config as plain JSON values: references and ~ resolved, tuples as lists."""
    return files.with_homes(json.loads(json.dumps(config.to_dict())))


def from_values(values: dict[str, Any]) -> ConfigDict:
    """The inverse of `to_values`."""
    return ConfigDict(values)


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Fields in which two resolved configs differ, as "name: old -> new", without those of FREE."""
    found = []
    for name in sorted(set(old) | set(new)):
        path = f"{prefix}{name}"
        before, after = old.get(name, _ABSENT), new.get(name, _ABSENT)
        if name in FREE or path in FREE or before == after:
            continue
        if isinstance(before, dict) and isinstance(after, dict):
            found += differences(before, after, f"{path}.")
        else:
            found.append(f"{path}: {_brief(before)} -> {_brief(after)}")
    return found


def _without_places(values: dict[str, Any]) -> dict[str, Any]:
    """The values without the folders in which data lie."""
    text = re.sub(r'folder:[^=,"]*', "folder:", json.dumps(values))
    return json.loads(re.sub(r'"data_dir": "[^"]*"', '"data_dir": ""', text))


def _brief(value: Any) -> str:
    if value is _ABSENT:
        return "absent"
    return f"a group of {len(value)} fields" if isinstance(value, dict) else repr(value)


def read_config(path: pathlib.Path) -> dict[str, Any]:
    """The resolved config of a workdir; UserError: missing, no JSON object or of another format."""
    try:
        values = files.with_homes(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise UserError(
            f"{path.parent} is not a workdir: it holds no config.json; name the folder of a run"
        ) from None
    except ValueError as error:  # neither UTF-8 nor JSON
        raise UserError(f"{path} is not JSON ({error}); restore or remove the workdir") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no JSON object of fields; restore or remove the workdir")
    check_format(values.pop("format", FORMAT), path)
    return values


def check_format(found: int, place: object) -> None:
    """Refuses the format number of a config or checkpoint that this histojax does not read."""
    if found != FORMAT:
        remedy = "update histojax" if found > FORMAT else "train the run again in another workdir"
        raise UserError(
            f"{place} has format {found}, and this histojax reads format {FORMAT} alone: {remedy}"
        )


def claim_workdir(config: ConfigDict, workdir: pathlib.Path, *, same_data: bool = False) -> None:
    """Writes the config into a new workdir, or checks it against the one that is there.

    `same_data`: the images are known to be the same, so that their folder may have moved.

    Raises:
        UserError: the workdir was started with another config (every differing field is listed), or
            has another format.
        DiskError: it cannot be written.
    """
    path = workdir / "config.json"
    values = to_values(config)
    if path.exists():
        old = read_config(path)
        found = differences(*(map(_without_places, (old, values)) if same_data else (old, values)))
        if found:
            raise UserError(
                f"{workdir} was started with another config; use another --workdir or take back: "
                + "; ".join(found)
            )
    text = json.dumps({"format": FORMAT, **values}, indent=1)
    with files.atomic_path(path) as part:
        part.write_text(text + "\n", encoding="utf-8")
