from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import traverse_util
from jax.sharding import AxisType, PartitionSpec

from histojax.components.pretrained import convert_resnet
from histojax.models.segmenters.se_unet import SEUNet
from histojax.models.vgg import IMAGENET_MEAN, IMAGENET_STD
from tests.models.published_resnet import published_arrays, torch_maps
from tests.models.synchronised import check_two_devices_are_one

TINY = {"encoder": "resnet18", "blocks": (1,), "width": 4, "decoder_features": (4, 4)}
LITE = {"encoder": "efficientnet_lite0", "blocks": (1, 1), "decoder_features": (4, 4)}
TINY_SE = {**TINY, "encoder": "se_resnet18", "se_reduction": 1}


def _shapes(model, size=64, **options):
    x = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    return jax.eval_shape(
        lambda x: model.init_with_output(jax.random.key(0), x, train=True, **options), x
    )


def _initialised(model, x):
    return jax.jit(partial(model.init, train=False))(jax.random.key(0), x)


def _count(tree):
    return sum(a.size for a in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("fields", "parameters"),
    [
        ({}, 35_037_186),
        ({"se_bias": True}, 35_053_234),
        ({"encoder": "resnet50"}, 23_508_032 + 9_014_210),
    ],
)
def test_parameters_are_those_published(fields, parameters):
    # What is trained; running means and variances, two a normalised channel, are not in the count.
    _, variables = _shapes(SEUNet(**fields))
    assert _count(variables["params"]) == parameters
    decoder = {k: v for k, v in variables["params"].items() if k != "trunk"}
    assert _count(decoder) == 9_014_210
    normalized = 64 + 2 * (256 + 128 + 64 + 32 + 16)
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        normalized += blocks * (2 * width + 4 * width) + 4 * width
    assert _count(variables["batch_stats"]) == 2 * normalized == 55_104


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"heads": ("mask", "marker", "distance"), "stem_skip": 3, "dtype": jnp.bfloat16},
        {"blocks": (1, 2), "width": 8, "decoder_features": (8, 8, 4)},
        {"encoder": "resnet18", "blocks": (1, 2), "width": 8, "decoder_features": (8, 6)},
        {"resizing": "align_corners", "heads": ("mask",)},
    ],
)
def test_logits_have_the_size_of_the_image_and_a_channel_a_head(fields):
    model = SEUNet(**fields)
    y, _ = _shapes(model)
    assert y.shape == (2, 64, 64, len(model.heads))
    assert y.dtype == jnp.float32


def test_levels_go_from_half_the_size_to_the_depth():
    levels, _ = _shapes(SEUNet(), method="encode")
    assert {k: v.shape[1:] for k, v in levels.items()} == {
        "level0": (32, 32, 64),
        "level1": (16, 16, 256),
        "level2": (8, 8, 512),
        "level3": (4, 4, 1024),
        "level4": (2, 2, 2048),
    }
    assert (SEUNet().depth, SEUNet().stride) == (4, 32)
    lite = SEUNet(encoder="efficientnet_lite0")
    levels, _ = _shapes(lite, method="encode")
    assert [v.shape[1:] for v in levels.values()] == [
        (32 >> n, 32 >> n, c) for n, c in enumerate((16, 24, 40, 112, 320))
    ]
    assert (lite.depth, lite.stride) == (4, 32)
    model = SEUNet(blocks=(1, 1), decoder_features=(8, 8))
    assert (model.depth, model.stride) == (2, 8)


@pytest.mark.parametrize(
    "fields",
    [
        TINY,
        {**TINY, "blocks": (1, 2), "decoder_features": (4, 4)},
        {**TINY, "encoder": "resnet50", "stem_skip": 4, "resizing": "align_corners"},
        {**LITE, "blocks": (1,), "decoder_features": (4, 4)},
        {**LITE, "blocks": (1, 2), "decoder_features": (4, 4, 4)},
    ],
)
def test_halo_bounds_the_receptive_field_within_one_stride(fields, monkeypatch):
    # What ends at six would hide what lies behind it.
    monkeypatch.setattr(nn, "relu6", nn.relu)
    # In double precision: kernels of some processors round a pixel by what lies far from it.
    with jax.enable_x64(True):
        model = SEUNet(**fields, dtype=jnp.float64)
        height, width, center = 256, model.stride, 128
        x = jnp.full((1, height, width, 3), 0.5, jnp.float64)
        variables = _initialised(model, x)
        # Weights above zero keep every ReLU open, so that each input below changes what it reaches.
        params = jax.tree.map(lambda p: jnp.abs(p) + 0.01, variables["params"])
        apply = jax.jit(lambda x: model.apply({**variables, "params": params}, x, train=False))
        phases = jnp.arange(model.stride)
        # One image a phase, its pixel so bright that a share of 1e-12 of it shows.
        bright = jnp.repeat(x, model.stride, 0).at[phases, center + phases].set(1e12)
        changed = np.asarray(apply(bright) != apply(x)).any((2, 3))
    radius = max(np.abs(np.nonzero(changed[p])[0] - center - p).max() for p in range(model.stride))
    assert model.halo % model.stride == 0
    assert model.halo - model.stride < radius <= model.halo


@pytest.mark.parametrize(
    ("fields", "exact"),
    [(TINY, True), (LITE, True), ({**TINY, "resizing": "align_corners"}, False), (TINY_SE, False)],
)
def test_exact_tiles_agree_with_the_whole(fields, exact):
    model = SEUNet(**fields)
    halo, core, start = model.halo, 8, 40
    assert start >= halo
    assert (start - halo) % model.stride == 0
    # Bright to one side alone, so that means over a window and over the whole differ.
    shade = jnp.linspace(0, 1, 96)[:, None] ** 4
    x = jax.random.uniform(jax.random.key(1), (1, 96, 96, 3)) * (0.1 + 0.9 * shade)
    variables = _initialised(model, x)
    apply = jax.jit(partial(model.apply, train=False))
    window = x[:, start - halo : start + core + halo, start - halo : start + core + halo]
    part = apply(variables, window)[:, halo:-halo, halo:-halo]
    inside = apply(variables, x)[:, start : start + core, start : start + core]
    difference = float(jnp.abs(part - inside).max() / jnp.ptp(inside))
    assert (difference < 1e-4) == exact
    assert exact or difference > 1e-3


# A network with every kind of layer of the source's, small; the decoder is filled from RandomState.
SOURCES = {
    "encoder": "se_resnet50",
    "blocks": (1, 1),
    "width": 8,
    "decoder_features": (8, 6, 4),
    "resizing": "align_corners",
}
# PyTorch 2.13's logits of image 1 at rows 5 and 20 of column 11, by `_torch_logits`.
RECORDED = ((-7.65501, -15.35705), (-4.18620, -7.34347))


def _source():
    model = SEUNet(**SOURCES)
    encoder = {"kind": SOURCES["encoder"], "blocks": SOURCES["blocks"], "width": SOURCES["width"]}
    arrays = published_arrays(**encoder, se_bias=False)
    flat = traverse_util.flatten_dict(_shapes(model)[1], sep="/")
    converted = {}
    for key, value in convert_resnet(arrays).items():
        collection, _, rest = key.partition("/")
        converted[f"{collection}/trunk/{rest}"] = value
    rng = np.random.RandomState(2)
    for key in sorted(set(flat) - set(converted)):
        scale = 1.5 / np.sqrt(np.prod(flat[key].shape[:-1]))
        values = scale * rng.standard_normal(flat[key].shape)
        converted[key] = (0.5 + np.abs(values) if key.endswith("/var") else values).astype("f4")
    assert {k: v.shape for k, v in converted.items()} == {k: v.shape for k, v in flat.items()}
    images = np.random.RandomState(3).random_sample((2, 32, 48, 3)).astype(np.float32)
    return model, arrays, converted, images


def _torch_logits(torch, arrays, converted, images):
    """The source's decoder on the maps of its encoder, (B, H, W, heads)."""
    f = torch.nn.functional

    def conv(y, name):
        kernel = torch.from_numpy(converted[f"params/{name}/kernel"].copy()).permute(3, 2, 0, 1)
        return f.conv2d(y, kernel, torch.from_numpy(converted[f"params/{name}/bias"]), padding=1)

    def norm(y, name):
        kinds = ("batch_stats/{}/mean", "batch_stats/{}/var", "params/{}/scale", "params/{}/bias")
        values = (torch.from_numpy(converted[kind.format(name)]) for kind in kinds)
        return f.batch_norm(y, *values)

    *maps, y = torch_maps(torch, arrays, torch.from_numpy(images).permute(0, 3, 1, 2))
    for skip, name in ((maps[1], "decoder_1"), (maps[0], "decoder_0"), (None, "decoder_full")):
        y = f.interpolate(y, scale_factor=2, mode="bilinear", align_corners=True)
        y = y if skip is None else torch.cat([y, skip], 1)
        for i in range(2):
            y = torch.relu(norm(conv(y, f"{name}/conv_{i}"), f"{name}/norm_{i}"))
    return conv(y, "head").permute(0, 2, 3, 1).numpy()


def test_logits_are_those_recorded_from_pytorch():
    model, _, converted, images = _source()
    variables = traverse_util.unflatten_dict(converted, sep="/")
    found = jax.jit(partial(model.apply, train=False))(variables, images)
    np.testing.assert_allclose(found[1, [5, 20], 11], RECORDED, atol=1e-4)
    torch = pytest.importorskip("torch", reason="PyTorch is wanted only to compare with")
    expected = _torch_logits(torch, _source()[1], converted, images)
    assert np.ptp(expected) > 1
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("decoder_features", [(4, 4), (4,)])
def test_heads_are_channels_in_their_order(decoder_features):
    names = ("mask", "marker", "distance")
    model = SEUNet(**{**TINY, "decoder_features": decoder_features}, heads=names)
    x = jnp.full((1, 8, 8, 3), 0.5)
    variables = _initialised(model, x)
    head = {
        "kernel": jnp.zeros_like(variables["params"]["head"]["kernel"]),
        "bias": jnp.arange(variables["params"]["head"]["bias"].size, dtype=jnp.float32),
    }
    y = model.apply({**variables, "params": {**variables["params"], "head": head}}, x, train=False)
    for c in range(len(names)):
        # At half the size, head c has four logits in the order of rows.
        block = (
            [[c]] if len(decoder_features) == 2 else [[4 * c, 4 * c + 1], [4 * c + 2, 4 * c + 3]]
        )
        np.testing.assert_array_equal(y[0, :2, :2, c], np.broadcast_to(block, (2, 2)))


def test_imagenets_mean_and_deviation_are_taken_off_on_demand():
    x = jax.random.uniform(jax.random.key(0), (1, 16, 16, 3))
    model = SEUNet(**TINY, stem_skip=2)
    variables = _initialised(model, x)
    apply = jax.jit(partial(model.apply, train=False))
    standardized = (x - np.float32(IMAGENET_MEAN)) / np.float32(IMAGENET_STD)
    inside = jax.jit(partial(model.clone(imagenet_input=True).apply, train=False))(variables, x)
    np.testing.assert_allclose(inside, apply(variables, standardized), atol=1e-5)
    assert float(jnp.abs(inside - apply(variables, x)).max()) > 1e-2


def test_efficientnet_reads_images_from_minus_one_to_one():
    model = SEUNet(encoder="efficientnet_lite0", imagenet_input=True)
    levels = jnp.array([[[[0.0, 127.0, 255.0]]]]) / 255
    np.testing.assert_allclose(model._pixels(levels)[0, 0, 0], [-127 / 128, 0, 1], atol=1e-6)


def test_dropout_acts_before_the_head_in_training_alone():
    model = SEUNet(**TINY, dropout=0.5)
    x = jax.random.uniform(jax.random.key(0), (1, 16, 16, 3))
    variables = _initialised(model, x)

    @partial(jax.jit, static_argnums=1)
    def logits(seed, train):
        rngs = {"dropout": jax.random.key(seed)}
        return model.apply(variables, x, train=train, rngs=rngs, mutable=["batch_stats"])

    (one, statistics), (other, same) = logits(0, True), logits(1, True)
    assert float(jnp.abs(one - other).max()) > 1e-3
    jax.tree.map(np.testing.assert_array_equal, statistics, same)
    np.testing.assert_array_equal(logits(0, False)[0], logits(1, False)[0])


def _gradient(model, variables, x):
    def loss(params):
        y, _ = model.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
        return (jnp.sin(3 * y) ** 2).mean()

    return jax.grad(loss)(variables["params"])


def test_gradients_reach_all_parameters_but_cancelled_biases():
    model = SEUNet(**TINY_SE, se_bias=True, stem_skip=4)
    x = jax.random.uniform(jax.random.key(2), (4, 16, 16, 3))
    gradients = jax.jit(partial(_gradient, model))(_initialised(model, x), x)
    for name, gradient in traverse_util.flatten_dict(gradients, sep="/").items():
        taken_off = "decoder" in name and "conv" in name and name.endswith("bias")
        assert (float(jnp.abs(gradient).max()) > 1e-5) != taken_off, name


def test_synchronised_statistics_make_two_devices_one():
    x = jax.random.uniform(jax.random.key(0), (4, 8, 8, 3))
    check_two_devices_are_one(SEUNet(**TINY_SE), x, atol=1e-4)


@pytest.mark.parametrize("resizing", ["half_pixel", "align_corners"])
def test_the_gradient_of_two_devices_is_that_of_one(resizing):
    model = SEUNet(**TINY_SE, resizing=resizing)
    x = jax.random.uniform(jax.random.key(2), (4, 16, 16, 3))
    variables = _initialised(model, x)
    whole = jax.jit(partial(_gradient, model))(variables, x)
    synchronised = model.clone(bn_axis_name="data")
    mesh = jax.make_mesh((2,), ("data",), (AxisType.Auto,), devices=jax.devices()[:2])
    parted = jax.jit(
        jax.shard_map(
            lambda v, x: jax.lax.pmean(_gradient(synchronised, v, x), "data"),
            mesh=mesh,
            in_specs=(PartitionSpec(), PartitionSpec("data")),
            out_specs=PartitionSpec(),
            check_vma=False,
        )
    )(variables, x)
    scale = np.sqrt(sum(float((g**2).sum()) for g in jax.tree.leaves(whole)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3 * scale), parted, whole)


def test_bfloat16_computes_near_float32_and_returns_it():
    x = jax.random.uniform(jax.random.key(0), (1, 16, 16, 3))
    model = SEUNet(**TINY_SE)
    variables = _initialised(model, x)
    y = jax.jit(partial(model.clone(dtype=jnp.bfloat16).apply, train=False))(variables, x)
    assert y.dtype == jnp.float32
    full = jax.jit(partial(model.apply, train=False))(variables, x)
    np.testing.assert_allclose(y, full, atol=0.05 * float(jnp.abs(full).max()))
    assert float(jnp.abs(y - full).max()) > 0


def test_a_size_that_does_not_fit_names_the_stride():
    with pytest.raises(ValueError, match=r"32 x 40 pixels .*multiples of 32"):
        SEUNet().init(jax.random.key(0), jnp.zeros((1, 32, 40, 3)), train=False)


def test_the_fields_are_checked():
    for fields, message in (
        (
            {"encoder": "vgg"},
            "encoder='vgg' is not known; choose one of resnet18, se_resnet18, resnet50, "
            "se_resnet50, efficientnet_lite0",
        ),
        (
            {"resizing": "nearest"},
            "resizing='nearest' is not known; choose one of half_pixel, align_corners",
        ),
        ({"blocks": (1, 0)}, "each has at least 1"),
        ({"blocks": (1, 1)}, "has to have 3 widths for an encoder of 2 stages, or 2"),
        ({"stem_skip": 4, "decoder_features": (8, 8, 8, 8)}, "stem_skip=4 .* 5 decoder_features"),
        ({"heads": ()}, "at least one"),
        ({"heads": ("mask", "mask")}, "none twice"),
    ):
        with pytest.raises(ValueError, match=message):
            _shapes(SEUNet(**fields))
