import jax
import numpy as np

from histojax.components import images


def test_the_likeliest_class_is_found_by_the_numbers_of_its_map():
    # Thirteen classes, the last of which comes before the third in the order of the alphabet.
    index = np.arange(13).reshape(1, 13)
    probability = 0.1 + 0.9 * jax.nn.one_hot(index, 13)
    heads = ("mask", *images.class_heads(13))
    assert heads[1] == "class_1"
    assert heads[-1] == "class_12"
    assert images.tells_classes(heads)
    maps = {"mask": 1 - probability[..., :1]}
    maps |= {head: probability[..., i : i + 1] for i, head in enumerate(heads) if i}
    found = images.likeliest_class(jax.device_get(jax.jit(lambda maps: maps)(maps)))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, index)
    assert not images.tells_classes(("mask", "marker"))


def test_background_may_be_likelier_than_each_class():
    maps = {"mask": 0.6, "class_1": 0.35, "class_2": 0.25}
    found = images.likeliest_class({head: np.full((2, 2, 1), p) for head, p in maps.items()})
    assert (found == 0).all()
