from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from histojax.components.pretrained import convert_resnet, fit_tree
from histojax.models import resnet
from histojax.models.resnet import ResNet
from tests.models.published_resnet import published_arrays, torch_maps

# Three kinds of block, small: fields of the network, whether timm's biases are in the file.
SMALL = {
    "resnet18": ({"kind": "resnet18", "blocks": (1, 2), "width": 16}, False),
    "resnet50": ({"kind": "resnet50", "blocks": (2, 1), "width": 8}, False),
    "se_resnet50": ({"kind": "se_resnet50", "blocks": (1, 1), "width": 8}, False),
    "se_resnet50_bias": ({"kind": "se_resnet50", "blocks": (1, 1), "width": 8}, True),
    "se_resnet18": ({"kind": "se_resnet18", "blocks": (1, 1), "width": 16}, True),
}
# PyTorch 2.13's values at row 1, column 2 of each map, channels 0 to 3, by `torch_maps`.
RECORDED = {
    "resnet18": (
        (1.69758, 0.00000, 0.00000, 0.00000),
        (4.86443, 1.36914, 0.00000, 0.16630),
        (3.52427, 5.20181, 1.34233, 2.27007),
    ),
    "resnet50": (
        (1.28731, 0.00000, 0.00000, 0.00000),
        (0.00000, 6.11021, 0.12816, 5.97294),
        (7.44640, 0.00000, 2.62899, 2.08120),
    ),
    "se_resnet50": (
        (1.28731, 0.00000, 0.00000, 0.00000),
        (2.21199, 0.47670, 0.27130, 0.00000),
        (0.13797, 0.00000, 0.00000, 1.19037),
    ),
    "se_resnet50_bias": (
        (1.28731, 0.00000, 0.00000, 0.00000),
        (0.57898, 1.04288, 1.55906, 0.00000),
        (2.06421, 0.00000, 2.26122, 0.88947),
    ),
    "se_resnet18": (
        (1.69758, 0.00000, 0.00000, 0.00000),
        (3.64916, 0.39659, 0.00000, 0.07045),
        (0.00000, 0.00000, 0.00000, 0.50899),
    ),
}


def loaded(name):
    fields, biased = SMALL[name]
    arrays = published_arrays(**fields, se_bias=biased)
    model = ResNet(**fields, se_bias=biased)
    x = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    expected = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), x)
    return arrays, model, fit_tree(convert_resnet(arrays), expected, source="test")


def images():
    return np.random.RandomState(1).random_sample((2, 32, 48, 3)).astype(np.float32)


@pytest.mark.parametrize("name", SMALL)
def test_maps_are_those_recorded_from_pytorch(name):
    _, model, variables = loaded(name)
    found = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, images())
    for level, expected in zip(found, RECORDED[name], strict=True):
        np.testing.assert_allclose(level[1, 1, 2, :4], expected, atol=2e-5)
        assert np.abs(expected).max() > 0.1


@pytest.mark.parametrize("name", SMALL)
def test_every_value_is_pytorchs(name):
    torch = pytest.importorskip("torch", reason="PyTorch is wanted only to compare with")
    arrays, model, variables = loaded(name)
    found = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, images())
    maps = torch_maps(torch, arrays, torch.from_numpy(images()).permute(0, 3, 1, 2))
    for level, expected in zip(found, maps, strict=True):
        np.testing.assert_allclose(level, expected.permute(0, 2, 3, 1), atol=2e-5)


def _shapes(model):
    x = jax.ShapeDtypeStruct((1, 64, 96, 3), jnp.float32)
    return jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x, train=True), x)


@pytest.mark.parametrize(
    ("fields", "parameters"),
    [
        # torchvision's 11,689,512 and 25,557,032 less the classifiers of 512 and 2048 to 1000.
        ({"kind": "resnet18"}, 11_689_512 - 513_000),
        ({"kind": "resnet50"}, 25_557_032 - 2_049_000),
        ({"kind": "se_resnet50"}, 26_022_976),
        # 3, 4, 6 and 3 blocks whose layers have C / 16 and C biases.
        (
            {"kind": "se_resnet50", "se_bias": True},
            26_022_976 + 3 * 272 + 4 * 544 + 6 * 1088 + 3 * 2176,
        ),
    ],
)
def test_parameters_are_those_published(fields, parameters):
    maps, variables = _shapes(ResNet(**fields))
    assert sum(a.size for a in jax.tree.leaves(variables["params"])) == parameters
    deep = 1 if fields["kind"] == "resnet18" else 4
    assert [m.shape[1:] for m in maps] == [
        (32, 48, 64),
        (16, 24, 64 * deep),
        (8, 12, 128 * deep),
        (4, 6, 256 * deep),
        (2, 3, 512 * deep),
    ]


def test_blocks_and_width_make_a_small_encoder():
    maps, variables = _shapes(ResNet(kind="resnet18", blocks=(1, 3), width=24))
    assert [m.shape[1:] for m in maps] == [(32, 48, 24), (16, 24, 24), (8, 12, 48)]
    layers = sorted(name for name in variables["params"] if name.startswith("layer"))
    assert layers == ["layer1_0", "layer2_0", "layer2_1", "layer2_2"]


def test_squeeze_and_excitation_weighs_channels_by_means():
    # One hidden unit holds the mean of channel 0, 3; channel c is weighed by sigmoid(c * 3).
    x = jnp.array([[1.0, 2.0], [5.0, 4.0]])[None]
    x = jnp.stack([x[..., 1], x[..., 0]], -1)[:, :, None]
    params = {
        "fc1": {"kernel": jnp.array([1.0, 0.0]).reshape(1, 1, 2, 1)},
        "fc2": {"kernel": jnp.array([0.0, 1.0]).reshape(1, 1, 1, 2)},
    }
    y = resnet.SqueezeExcitation(reduction=2).apply({"params": params}, x)
    weights = np.array([0.5, 1 / (1 + np.exp(-3))])
    np.testing.assert_allclose(y, x * weights, rtol=1e-6)


def test_the_field_of_a_resnet_18_stage():
    # Walked by hand from pixel 5 of the only stage's map, two blocks of two 3x3: 5 +- 4, the
    # pooling 2 p - 1 ... 2 p + 1, the stem 2 p - 3 ... 2 p + 3.
    assert resnet.field((2,), False, [(10, 10), (5, 5)]) == (2 * 1 - 3, 2 * 19 + 3)
    # A bottleneck has one 3x3; the stem's own interval counts where it reaches further.
    assert resnet.field((2,), True, [(10, 10), (5, 5)]) == (2 * 5 - 3, 2 * 15 + 3)
    assert resnet.field((2,), True, [(0, 40), (5, 5)]) == (-3, 83)
    # The second stage halves in its first block: 5 +- 1, then 2 p - 1 ... 2 p + 1, then +- 1.
    needed = [(20, 20), (10, 10), (5, 5)]
    low, high = 2 * 4 - 1 - 1, 2 * 6 + 1 + 1
    assert resnet.field((1, 2), True, needed) == (2 * (2 * low - 1) - 3, 2 * (2 * high + 1) + 3)


def test_an_unknown_kind_is_refused_with_the_choices():
    with pytest.raises(ValueError, match="'vgg' is not known; choose one of resnet18"):
        _shapes(ResNet(kind="vgg"))
