import json
import math

import jax.numpy as jnp

from histojax.training.progress import SinceLastLine, clock


def test_means_are_of_finite_values_and_counts_are_the_last():
    since = SinceLastLine()
    for loss, skipped in ((1.0, 0), (math.nan, 1), (3.0, 1)):
        since.add({"loss": jnp.float32(loss), "skipped": jnp.int32(skipped)})
    assert since.take() == {"loss": 2.0, "skipped": 1.0}


def test_taking_starts_anew():
    since = SinceLastLine()
    since.add({"loss": jnp.float32(1.0)})
    since.take()
    since.add({"loss": jnp.float32(5.0)})
    assert since.take() == {"loss": 5.0}


def test_nothing_finite_is_nan():
    since = SinceLastLine()
    since.add({"loss": jnp.float32(math.inf)})
    assert math.isnan(since.take()["loss"])


def test_going_on_from_kept_sums_gives_the_same_mean_to_the_bit():
    values = [0.1, 0.7, 1e-9, 3.3]
    whole, first = SinceLastLine(), SinceLastLine()
    for value in values:
        whole.add({"loss": jnp.float32(value)})
    for value in values[:2]:
        first.add({"loss": jnp.float32(value)})
    second = SinceLastLine(json.loads(json.dumps(first.sums())))
    for value in values[2:]:
        second.add({"loss": jnp.float32(value)})
    assert second.take() == whole.take()


def test_times_read_as_clocks():
    assert clock(59) == "0:59"
    assert clock(3661) == "1:01:01"
    assert clock(math.nan) == "?"
