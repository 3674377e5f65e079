import pytest

from histojax.data.sources.splits import check_grouping, group_of, split_groups
from histojax.errors import UserError


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


@pytest.mark.faults
@pytest.mark.parametrize("sign", "-. ")
def test_names_that_share_beginnings_need_a_word_on_patients(sign):
    names = [f"p1{sign}a", *(f"p2{sign}{region}" for region in "abc")]
    with pytest.raises(
        UserError, match=r"of 'p2': write splits\.json, or set data\.group_pattern="
    ):
        check_grouping("data folder x", {name: name for name in names})


@pytest.mark.parametrize(
    "names",
    [
        ["a3f9", "07bc", "a31e", "a3b7"],  # numbers in hexadecimals
        [f"img-{i}" for i in range(1, 10)],  # one beginning says nothing
        ["p1-a", "p2-a", "p3-b"],  # nor do as many as images
        ["p1-a_1", "p1-a_2", "p2-a_1", "p2-b_1"],  # patients are seen, of which one has two
    ],
)
def test_other_names_need_none(names):
    check_grouping("data folder x", {name: group_of(name) for name in names})


@pytest.mark.faults
@pytest.mark.parametrize(
    ("form", "patient", "pattern"),
    [
        ("Patient {:02d} ({})", "Patient 01", r"[A-Za-z]+\\ [0-9]+"),
        ("Slide{:02d}ROI{}", "Slide01", "[A-Za-z]+[0-9]+"),
        ("2023-{:02d}-A{}", "2023-01", r"[0-9]+\\-[0-9]+"),
    ],
)
def test_patients_in_names_of_one_form_are_seen(form, patient, pattern):
    names = [form.format(p, i) for p in range(1, 4) for i in range(1, 4)]
    with pytest.raises(UserError) as refusal:
        check_grouping("data folder x", {name: name for name in names})
    assert f"several images of {patient!r}" in str(refusal.value)
    assert f"group_pattern='{pattern}' (a patient)" in str(refusal.value)
    groups = {group_of(name, pattern.replace(r"\\", "\\")) for name in names}
    assert len(groups) == 3
