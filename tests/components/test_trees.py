import jax
import jax.numpy as jnp
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


def test_the_first_array_that_is_not_finite_is_named_without_a_copy(monkeypatch):
    tree = {"key": jax.random.key(0), "n": jnp.arange(3), "a": {"w": jnp.ones((2, 9))}}
    tree["b"] = jnp.ones(4)
    copied, get = [], jax.device_get
    monkeypatch.setattr(jax, "device_get", lambda x: copied.append(get(x)) or copied[-1])
    assert trees.not_finite(tree) is None
    assert copied == [{"a/w": True, "b": True}]
    for value in (jnp.nan, -jnp.inf):
        assert trees.not_finite({**tree, "b": tree["b"].at[3].set(value)}) == "b"
