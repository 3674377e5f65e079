import pytest

from histojax.data.sources.splits import group_of, split_groups


@pytest.mark.parametrize(
    ("groups", "val"),
    [(2, 1), (5, 1), (10, 2), (8, 2)],
)
def test_how_many_groups_go_to_val(groups, val):
    names = [str(group) for group in range(groups)]
    train, chosen = split_groups(names, seed=0)
    assert len(chosen) == val
    assert sorted(train + chosen) == sorted(names)
    assert split_groups(names[::-1] * 2, seed=0) == (train, chosen)


@pytest.mark.parametrize(
    ("name", "pattern", "group"),
    [
        ("TCGA-18-5592-01Z-00-DX1", "", "TCGA-18-5592"),
        ("TCGA-18-5592_3", "", "TCGA-18-5592"),
        ("01_12", "", "01"),
        ("slide", "", "slide"),
        ("_x", "", "_x"),
        ("case7-roi2", r"^(case\d+)-", "case7"),
        ("case7-roi2", r"case\d+", "case7"),
        ("img_1", ".*", "img_1"),
        ("img_1", None, "img"),
    ],
)
def test_group_of_a_name(name, pattern, group):
    assert group_of(name, pattern) == group
