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


def write(path, *parts):
    with tables.writing(path) as append:
        for part in parts:
            append(part)
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


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_parts_make_the_file_of_the_whole(tmp_path, name):
    if name == "a.parquet":
        pytest.importorskip("pyarrow")
    whole = write(tmp_path / name, TABLE)
    none, one, rest = (rows_of(TABLE, where) for where in (np.s_[:0], np.s_[:1], np.s_[1:]))
    parts = write(tmp_path / f"parts{name[1:]}", none, one, none, rest)
    if name == "a.csv":
        assert parts.read_bytes() == whole.read_bytes()
    else:
        parquet = pytest.importorskip("pyarrow.parquet")
        found = parquet.read_table(parts).to_pydict()
        assert found == parquet.read_table(whole).to_pydict()
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
def test_what_is_no_table_is_refused_and_leaves_no_file(tmp_path):
    with pytest.raises(UserError, match=r"ends in neither \.csv nor \.parquet"):
        write(tmp_path / "a.xlsx", TABLE)
    other = {**TABLE, "more": np.zeros(2)}
    with pytest.raises(ValueError, match="are not those of the file"):
        write(tmp_path / "a.csv", TABLE, other)
    with pytest.raises(ValueError, match="different lengths"):
        write(tmp_path / "a.csv", {"a": np.zeros(2), "b": np.zeros(3)})
    for name in ("a.csv", "a.parquet"):
        with pytest.raises(ValueError, match="no table"):
            write(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.faults
def test_parquet_without_pyarrow_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match="needs pyarrow, which is not installed: run pip install"):
        write(tmp_path / "a.parquet", TABLE)
    assert list(tmp_path.iterdir()) == []
