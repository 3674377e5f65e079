import math

from launch.tables import cell, text_table


def test_columns_stand_under_each_other():
    rows = [{"stage": "joint", "ms": 1000.4}, {"stage": "segmentation", "ms": 2.5, "batch": 8}]
    assert text_table(rows).splitlines() == [
        "stage            ms  batch",
        "joint         1,000      -",
        "segmentation    2.5      8",
    ]


def test_values_have_four_digits():
    values = [12345.6, 0.123456, 70_225, True, None, math.nan]
    assert [cell(value) for value in values] == ["12,346", "0.1235", "70,225", "True", "-", "-"]
