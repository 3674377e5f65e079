import numpy as np
import pytest

from histojax.components import pair_gan
from histojax.components.content import Content
from histojax.errors import UserError
from histojax.losses import pixel
from tests import tiny

CONTENT = Content(pixel.l1, 1.0)


def test_matching_sums_layers_and_averages_sizes():
    ones, zeros = np.ones((1, 2, 2, 3), np.float32), np.zeros((1, 2, 2, 3), np.float32)
    # Two layers off by 1 at one size, one of two at the other.
    found, wanted = [[ones, ones], [ones, zeros]], [[zeros, zeros], [zeros, zeros]]
    assert pair_gan.matching(found, wanted) == pytest.approx(1.5)
    assert pair_gan.matching(wanted, wanted) == 0


def test_weights_come_from_the_config():
    loss = tiny.config("pyramid").loss.copy_and_resolve_references()
    for name in ("moments_weight", "added_weight"):
        loss[name] = 3.0
        assert getattr(pair_gan.build_contest(loss, CONTENT), name) == 3.0


@pytest.mark.faults
def test_a_weight_below_zero_and_an_unknown_form_are_refused():
    loss = tiny.config("pyramid").loss.copy_and_resolve_references()
    for name in ("moments_weight", "added_weight"):
        loss[name] = -1.0
        with pytest.raises(UserError, match=rf"loss\.{name}=-1\.0 has to be a number of 0 or more"):
            pair_gan.build_contest(loss, CONTENT)
        loss[name] = 0.0
    loss.adversarial.kind = "war"
    with pytest.raises(UserError, match=r"loss\.adversarial\.kind='war'"):
        pair_gan.build_contest(loss, CONTENT)
