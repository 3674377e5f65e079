"""Tables as CSV or Parquet: a dict of arrays (N,), one a column."""

import csv
import importlib.util
import pathlib
from collections.abc import Mapping

import numpy as np

from histojax.errors import UserError
from histojax.files import atomic_path


def write(path: pathlib.Path, table: Mapping[str, np.ndarray]) -> None:
    """Writes a table to NAME.parquet, or as CSV to any other name.

    CSV is UTF-8 with a comma between columns and a dot in numbers, of 8 significant digits. A
    missing value (NaN) is an empty cell, and a null in Parquet.

    Raises:
        UserError: Parquet without pyarrow.
        DiskError: the disk refuses.
    """
    with atomic_path(path) as beside:
        if path.suffix == ".parquet":
            _write_parquet(beside, table)
            return
        with beside.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(table)
            writer.writerows(zip(*map(texts, table.values()), strict=True))


def texts(values: np.ndarray) -> list[str]:
    """Numbers as text of 8 significant digits, "" for one that is not finite; bool as 0 and 1."""
    if values.dtype.kind != "f":
        return list(map(str, (values.astype(int) if values.dtype.kind == "b" else values).tolist()))
    finite = np.isfinite(values).tolist()
    pairs = zip(values.tolist(), finite, strict=True)
    return [f"{value:.8g}" if known else "" for value, known in pairs]


def check_parquet() -> None:
    """Raises UserError where nothing here writes Parquet."""
    if importlib.util.find_spec("pyarrow") is None:
        raise UserError(
            "Parquet needs pyarrow, which is not installed: run pip install pyarrow, or write CSV"
        )


def _write_parquet(path: pathlib.Path, table: Mapping[str, np.ndarray]) -> None:
    check_parquet()
    import pyarrow
    import pyarrow.parquet

    # from_pandas: NaN is null.
    columns = {name: pyarrow.array(values, from_pandas=True) for name, values in table.items()}
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
