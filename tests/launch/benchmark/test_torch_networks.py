"""Each network of PyTorch computes what histojax's does, with the same variables."""

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from histojax.models.discriminators.patch import PatchDiscriminator
from histojax.models.generators.resnext import ResNeXt
from histojax.models.generators.srresnet import SRResNet
from histojax.models.segmenters.inception_unet import InceptionUNet
from histojax.models.segmenters.se_unet import SEUNet
from histojax.models.segmenters.unet import UNet
from launch.benchmark import against

LEAVES = {"kernel": "weight", "scale": "weight", "negative_slope": "weight", "bias": "bias"}
LEAVES |= {"mean": "running_mean", "var": "running_var"}
SMALL = {"blocks": 1, "features": 8, "head_kernel": 3, "tail_kernel": 5}
LINEAR = {"norm": "none", "output": "linear", "phases": "alike", "skip": "bicubic", "anchor": 1.5}
UNET = {"depth": 2, "features": 8}
SE = {"blocks": (1, 2), "width": 8, "se_reduction": 4, "decoder_features": (8, 6, 4)}
NETWORKS = [
    (ResNeXt, dict(SMALL, width=16, cardinality=4)),
    (ResNeXt, dict(SMALL, width=16, cardinality=4, upsampling="direct", **LINEAR)),
    (SRResNet, dict(SMALL, activation="relu", skip="bicubic", scale=3)),
    (SRResNet, dict(SMALL, residual_scale=0.2, **LINEAR)),
    (InceptionUNet, dict(UNET, blocks_per_level=2)),
    (InceptionUNet, dict(UNET, five="3x3x2", residual=True, fuse=True, norm="none", stem_stride=2)),
    (InceptionUNet, dict(UNET, norm="instance", upsampling="bilinear", heads=("mask", "marker"))),
    (UNet, UNET),
    (UNet, dict(UNET, norm="batch", head_features=0, stem_stride=2)),
    (SEUNet, dict(SE, stem_skip=4)),
    (SEUNet, dict(SE, se_bias=True, imagenet_input=True, resizing="align_corners")),
    (SEUNet, dict(SE, encoder="resnet18", decoder_features=(8, 6))),
    (PatchDiscriminator, {"widths": (8, 12)}),
    (PatchDiscriminator, {"widths": (8, 12), "norm": "batch"}),
]


def variables_of(module, x):
    """Variables of which none is 0, nor is any variance negative."""
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), x, train=False))
    rng, found = np.random.default_rng(0), {}
    for path, leaf in flatten_dict(shapes).items():
        sign = 1 if path[-1] == "var" else rng.choice([-1, 1], leaf.shape)
        found[path] = np.float32(sign * rng.uniform(0.1, 0.5, leaf.shape))
    return found


@pytest.mark.parametrize(("kind", "fields"), NETWORKS)
def test_outputs_are_those_of_jax(kind, fields):
    torch = pytest.importorskip("torch", reason="PyTorch is wanted only to compare with")
    from launch.benchmark import torch_networks

    module = kind(**fields)
    x = np.random.default_rng(1).random((2, 16, 24, 3), np.float32)
    flat = variables_of(module, x)
    named = {
        ".".join([*path[1:-1], LEAVES[path[-1]]]): torch.from_numpy(
            leaf.transpose(3, 2, 0, 1).copy() if leaf.ndim == 4 else leaf
        )
        for path, leaf in flat.items()
    }
    network = torch_networks.build(kind.__name__, against.fields_of(module), x.shape[1:]).eval()
    missing, unexpected = network.load_state_dict(named, strict=False)
    assert all(name.endswith("num_batches_tracked") for name in missing)
    assert not unexpected
    with torch.no_grad():
        y = network(torch.from_numpy(x).movedim(-1, 1)).movedim(1, -1)
    expected = module.apply(unflatten_dict(flat), x, train=False)
    np.testing.assert_allclose(y, expected, atol=1e-4 * np.abs(expected).max())


def test_spectral_norm_trains_as_many_parameters():
    torch = pytest.importorskip("torch", reason="PyTorch is wanted only to compare with")
    from launch.benchmark import torch_networks

    module = PatchDiscriminator(widths=(8, 12), norm="none", spectral_norm=True)
    x = np.zeros((1, 16, 16, 3), np.float32)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), x, train=False))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
    network = torch_networks.build("PatchDiscriminator", against.fields_of(module), (16, 16, 3))
    assert sum(each.numel() for each in network.parameters()) == count
    assert network(torch.ones(1, 3, 16, 16)).isfinite().all()
