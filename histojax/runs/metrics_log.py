"""The metrics.jsonl of a workdir, read back."""

import json
import pathlib
from typing import Any

WARNING = "warning"  # the split of lines that hold words


def read_metrics(path: pathlib.Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; a last line cut short by a kill is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
