import numpy as np
import pytest

from histojax.components import trees
from histojax.errors import UserError


@pytest.mark.faults
def test_names_of_another_prefix_and_lost_statistics_are_listed():
    kernel, mean = {"head": {"kernel": np.zeros((2, 3))}}, {"head": {"mean": np.zeros(3)}}
    wanted = {"params": kernel, "batch_stats": mean}
    with pytest.raises(UserError, match="a is of another architecture") as refused:
        trees.check_names({"params": {"module": kernel}}, wanted, "a")
    assert str(refused.value).splitlines()[1:] == [
        "- batch_stats/head/mean (3,)",
        "- params/head/kernel (2, 3)",
        "+ params/module/head/kernel (2, 3)",
    ]
