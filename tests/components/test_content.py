import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from histojax.components import content
from histojax.errors import UserError
from histojax.models.segmenters.inception_unet import InceptionUNet
from tests import tiny


def group(**features):
    values = {
        "network": "segmenter",
        "path": "",
        "sha256": "",
        "layers": {},
        "kind": "l1",
        "weight": 0.5,
        **features,
    }
    return ConfigDict({"pixel": "l1", "pixel_weight": 2.0, "features": values})


@pytest.fixture(scope="module")
def segmenter():
    stage, state, _ = tiny.built("segmentation")
    return stage.segmenter, {"segmenter": state.variables("segmenter")}


def test_the_loss_is_pixel_and_feature_term_by_weight(segmenter):
    made = content.build_content(group(), *segmenter)
    assert list(made.layers) == ["level0", "level1"]
    rng = np.random.default_rng(0)
    sr, hr = (jnp.asarray(rng.random((2, 16, 16, 3), np.float32)) for _ in range(2))
    total, terms = made.loss(made.frozen, sr, hr)
    assert float(terms["loss_pixel"]) == pytest.approx(float(jnp.mean(jnp.abs(sr - hr))))
    assert float(terms["loss_feature"]) > 0
    assert float(total) == pytest.approx(
        2 * float(terms["loss_pixel"]) + 0.5 * float(terms["loss_feature"])
    )
    nothing, _ = made.loss(made.frozen, hr, hr)
    assert float(nothing) == 0


def test_a_plain_u_net_is_a_feature_network_too():
    stage, state, _ = tiny.built("unet")
    initial = {"segmenter": state.variables("segmenter")}
    made = content.build_content(group(), stage.segmenter, initial)
    assert list(made.layers) == ["level0", "level1"]
    rng = np.random.default_rng(0)
    sr, hr = (jnp.asarray(rng.random((2, 16, 16, 3), np.float32)) for _ in range(2))
    assert float(made.loss(made.frozen, sr, hr)[1]["loss_feature"]) > 0
    assert float(made.loss(made.frozen, hr, hr)[0]) == 0


def test_no_weight_needs_no_network():
    made = content.build_content(group(weight=0.0, network="vgg19"), None, {})
    assert made.frozen == {}
    total, terms = made.loss({}, jnp.ones((1, 4, 4, 3)), jnp.zeros((1, 4, 4, 3)))
    assert float(total) == 2
    assert list(terms) == ["loss_pixel"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": {"level9": 1.0}}, "has 'level9', which segmenter does not; its layers are"),
        ({"kind": "cosine"}, r"loss\.features\.kind='cosine' is not known; choose one of l1, mse"),
        ({"network": "resnet"}, "'resnet' is not one of"),
    ],
)
def test_what_is_not_known_is_named(segmenter, changes, message):
    with pytest.raises(UserError, match=message):
        content.build_content(group(**changes), *segmenter)


def test_segmenter_features_need_a_segmenter():
    module = InceptionUNet(depth=1, features=4)
    for known in (None, module):
        with pytest.raises(UserError, match=r"needs init_from\.segmenter"):
            content.build_content(group(), known, {})
