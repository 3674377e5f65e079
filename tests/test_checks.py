import math

import numpy as np
import pytest

from histojax.checks import check, flag, number, one_of, pair, whole
from histojax.errors import UserError


@pytest.mark.parametrize(
    ("rule", "kept", "broken", "words"),
    [
        (number(0), [0, 0.5, np.float32(2)], [-1, math.nan, math.inf, "1", True], "of 0 or more"),
        (number(above=0, below=1), [0.5], [0, 1, -0.1], "a number above 0 and below 1"),
        (number(0, 1), [0, 1], [-0.01, 1.01], "from 0 to 1"),
        (number(0, of="a number of px"), [3], [-3], "has to be a number of px of 0 or more"),
        (whole(1), [1, np.int64(7)], [0, 1.0, 1.5, True], "a whole number of 1 or more"),
        (whole(1).or_none(), [None, 1], [0], "of 1 or more, or None"),
        (flag(), [True, False], [0, 1, "yes"], "True or False"),
        (one_of(("a", "b")), ["a"], ["c", None], "is not known; choose one of a, b"),
        (one_of((2, 4)), [2], [3, 2.0, "2"], "choose one of 2, 4"),
        (pair(number(0)), [(0, 1), [2, 2]], [(1, 0), (1,), 3, (-1, 1)], "the least first"),
    ],
)
def test_a_rule_is_kept_or_broken(rule, kept, broken, words):
    assert all(rule.holds(value) for value in kept)
    assert not any(rule.holds(value) for value in broken)
    assert words in rule.words


def test_the_sentence_names_group_field_value_and_rule():
    with pytest.raises(UserError) as failure:
        check({"eval": {"crop": 0}}, {"eval.crop": whole(1)}, "data.")
    assert str(failure.value) == "data.eval.crop=0 has to be a whole number of 1 or more"


def test_another_error_can_be_asked_for():
    with pytest.raises(ValueError, match="rate=2 has to be a number from 0 to 1"):
        check({"rate": 2}, {"rate": number(0, 1)}, error=ValueError)
