"""Tables of any length as CSV or Parquet, written part by part: a dict of arrays (N,) each."""

import contextlib
import csv
import importlib.util
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from histojax.errors import UserError
from histojax.files import atomic_path

Append = Callable[[Mapping[str, np.ndarray]], None]


@contextlib.contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[Append]:
    """Opens a .csv or .parquet file; the function that it gives appends a table.

    All tables have the columns of the first, which may be empty. CSV is UTF-8 with a comma between
    columns and a dot in numbers, of 8 significant digits; a missing value (NaN) is an empty cell,
    and a null in Parquet. The file appears under its name when all of it is written.

    Raises:
        UserError: another ending, or Parquet without pyarrow.
        DiskError: the disk refuses.
        ValueError: the columns of a table differ, or there was no table.
    """
    path = pathlib.Path(path)
    formats = {".csv": _csv, ".parquet": _parquet}
    if path.suffix not in formats:
        raise UserError(f"{path} ends in neither .csv nor .parquet: name the table so")
    headings: list[str] = []
    with atomic_path(path) as beside, formats[path.suffix](beside, path) as write:

        def append(table: Mapping[str, np.ndarray]) -> None:
            headings[:] = headings or table
            if list(table) != headings:
                raise ValueError(f"columns {list(table)} are not those of the file: {headings}")
            if len({len(values) for values in table.values()}) > 1:
                raise ValueError("the columns have different lengths")
            write(table)

        yield append
        if not headings:
            raise ValueError(f"no table was written to {path}")


def texts(values: np.ndarray) -> list[str]:
    """Numbers as text of 8 significant digits, "" for one that is not finite; bool as 0 and 1."""
    if values.dtype.kind != "f":
        return list(map(str, (values.astype(int) if values.dtype.kind == "b" else values).tolist()))
    finite = np.isfinite(values).tolist()
    pairs = zip(values.tolist(), finite, strict=True)
    return [f"{value:.8g}" if known else "" for value, known in pairs]


@contextlib.contextmanager
def _csv(beside: pathlib.Path, _: pathlib.Path) -> Iterator[Append]:
    with beside.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")

        def write(table: Mapping[str, np.ndarray]) -> None:
            if file.tell() == 0:
                writer.writerow(table)
            writer.writerows(zip(*map(texts, table.values()), strict=True))

        yield write


def check_parquet() -> None:
    """Raises UserError where nothing here writes Parquet."""
    if importlib.util.find_spec("pyarrow") is None:
        raise UserError(
            "Parquet needs pyarrow, which is not installed: run pip install pyarrow, or write CSV"
        )


@contextlib.contextmanager
def _parquet(beside: pathlib.Path, _: pathlib.Path) -> Iterator[Append]:
    check_parquet()
    import pyarrow
    import pyarrow.parquet

    writer: Any = None
    with contextlib.ExitStack() as stack:

        def write(table: Mapping[str, np.ndarray]) -> None:
            nonlocal writer
            # from_pandas: NaN is null.
            columns = {k: pyarrow.array(v, from_pandas=True) for k, v in table.items()}
            part = pyarrow.table(columns)
            if writer is None:
                writer = stack.enter_context(pyarrow.parquet.ParquetWriter(beside, part.schema))
            writer.write_table(part.cast(writer.schema))

        yield write
