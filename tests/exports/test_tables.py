import csv
import importlib.util

import numpy as np
import pytest

from histojax.errors import UserError
from histojax.exports import tables

TABLE = {
    "label": np.array([3, 2**31 - 1], np.int32),
    "area_um2": np.array([123456.7891, np.nan]),
    "touches_edge": np.array([True, False]),
    "class": np.array(["a, b", ""]),
}


def write(path, table):
    tables.write(path, table)
    return path


def rows_of(table, where):
    return {name: values[where] for name, values in table.items()}


def test_a_csv_is_ascii_numbers_with_dots_and_empty_cells(tmp_path):
    path = write(tmp_path / "a.csv", TABLE)
    assert path.read_bytes().decode("ascii") == (
        'label,area_um2,touches_edge,class\n3,123456.79,1,"a, b"\n2147483647,,0,\n'
    )


def test_numbers_keep_a_millionth(tmp_path):
    rng = np.random.default_rng(0)
    values = 10.0 ** rng.uniform(-12, 12, 1000) * rng.choice([-1, 1], 1000)
    path = write(tmp_path / "a.csv", {"a": values, "b": values.astype(np.float32)})
    with path.open() as file:
        read = np.array([[float(cell) for cell in row] for row in list(csv.reader(file))[1:]])
    np.testing.assert_allclose(read[:, 0], values, rtol=1e-6)
    np.testing.assert_allclose(read[:, 1], values, rtol=1e-6)


def test_parquet_keeps_types_and_has_nulls(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    found = parquet.read_table(write(tmp_path / "a.parquet", TABLE)).to_pydict()
    assert found["label"] == [3, 2**31 - 1]
    assert found["area_um2"] == [123456.7891, None]
    assert found["touches_edge"] == [True, False]


@pytest.mark.faults
@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_a_table_without_rows_keeps_its_headings(tmp_path, name):
    if name == "a.parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
    path = write(tmp_path / name, rows_of(TABLE, np.s_[:0]))
    if name == "a.csv":
        assert path.read_text() == "label,area_um2,touches_edge,class\n"
    else:
        assert parquet.read_table(path).column_names == list(TABLE)


@pytest.mark.faults
def test_columns_of_two_lengths_leave_no_file(tmp_path):
    with pytest.raises(ValueError, match="shorter"):
        write(tmp_path / "a.csv", {"a": np.zeros(3), "b": np.zeros(2)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.faults
def test_parquet_without_pyarrow_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match="needs pyarrow, which is not installed: run pip install"):
        write(tmp_path / "a.parquet", TABLE)
    assert list(tmp_path.iterdir()) == []
