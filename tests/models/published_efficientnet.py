"""EfficientNet-Lite0 under the names of efficientnet_lite_pytorch, small, and PyTorch's maps."""

from __future__ import annotations

import numpy as np

from histojax.models.efficientnet import BLOCKS, STAGES
from tests.models.published_resnet import drawing, torch_norm


def shapes():
    """(expansion, channels in, channels out, kernel side, stride) of every block in order."""
    rows, channels = [(1, 32, 16, 3, 1)], 16
    for stage in STAGES:
        for block, (features, side) in enumerate(stage):
            rows.append((6, channels, features, side, 1 if block else 2))
            channels = features
    return rows


def published_arrays(stages: int = len(BLOCKS)) -> dict[str, np.ndarray]:
    """Weights and batch statistics of the first stages, and a classifier's, by RandomState."""
    arrays, _, conv, norm = drawing()
    conv("_conv_stem", 3, 32, 3)
    norm("_bn0", 32)
    for n, (expand, c_in, c_out, side, _) in enumerate(shapes()[: 1 + sum(BLOCKS[:stages])]):
        name, wide = f"_blocks.{n}", expand * c_in
        if expand > 1:
            conv(f"{name}._expand_conv", c_in, wide, 1)
            norm(f"{name}._bn0", wide)
        conv(f"{name}._depthwise_conv", 1, wide, side)
        norm(f"{name}._bn1", wide)
        conv(f"{name}._project_conv", wide, c_out, 1)
        norm(f"{name}._bn2", c_out)
    conv("_conv_head", c_out, 8, 1)
    norm("_bn1", 8)
    arrays["_fc.weight"], arrays["_fc.bias"] = np.zeros((3, 8), "f4"), np.zeros(3, "f4")
    return arrays


def torch_maps(torch, arrays, images, stages):
    """The maps of every level, (B, C, H, W), of images of that layout."""
    f = torch.nn.functional

    def norm(y, name):
        # Batch normalisation's epsilon is 1e-3, where `torch_norm` has PyTorch's 1e-5.
        scaled = {**arrays, f"{name}.running_var": arrays[f"{name}.running_var"] + (1e-3 - 1e-5)}
        return torch_norm(torch, y, scaled, name)

    def conv(y, name, stride=1, groups=1):
        kernel = torch.from_numpy(arrays[f"{name}.weight"])
        more = max(kernel.shape[-1] - stride, 0)
        y = f.pad(y, [more // 2, more - more // 2] * 2)
        return f.conv2d(y, kernel, stride=stride, groups=groups)

    y, maps = f.relu6(norm(conv(images, "_conv_stem", 2), "_bn0")), []
    ends = [sum(BLOCKS[:n]) for n in range(stages + 1)]
    for n, (expand, c_in, c_out, _, stride) in enumerate(shapes()[: ends[-1] + 1]):
        name, x = f"_blocks.{n}", y
        if expand > 1:
            y = f.relu6(norm(conv(y, f"{name}._expand_conv"), f"{name}._bn0"))
        y = conv(y, f"{name}._depthwise_conv", stride, expand * c_in)
        y = f.relu6(norm(y, f"{name}._bn1"))
        y = norm(conv(y, f"{name}._project_conv"), f"{name}._bn2")
        y = x + y if stride == 1 and c_in == c_out else y
        if n in ends:
            maps.append(y)
    return maps
