"""Rows that an earlier call has measured, by all that may have changed them."""

import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

Row = dict[str, Any]


def key(function: Callable[..., Any], options: Mapping[str, Any], made: Mapping[str, Any]) -> str:
    """SHA-256 of a measurement, its options (a config among them), the code and the conditions.

    Args:
        made: as of `timing.conditions`; its command and its load are left out.
    """
    facts = {name: made[name] for name in ("hardware", "versions", "cores_used")}
    settings = {k: v for k, v in os.environ.items() if k.startswith(("JAX_", "XLA_"))}
    known = [function.__qualname__, dict(options), facts, settings, _code()]
    return hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode()).hexdigest()


def _code() -> str:
    root, found = pathlib.Path(__file__).parents[2], hashlib.sha256()
    for folder in ("configs", "histojax", "launch", "tests"):  # some measurements read its oracles
        for path in sorted((root / folder).rglob("*.py")):
            found.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return found.hexdigest()


def kept(path: pathlib.Path) -> dict[str, list[Row]]:
    """The rows of a benchmark.json by their keys; none where it is not there."""
    found: dict[str, list[Row]] = {}
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"keys": {}}
    for word, keys in before["keys"].items():
        for name, row in zip(keys, before["rows"][word], strict=True):
            found.setdefault(name, []).append(row)
    return found
