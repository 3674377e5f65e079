"""ResNets as torchvision and timm publish them: named weights, and what PyTorch makes of them."""

from __future__ import annotations

import numpy as np

from histojax.models import resnet


def drawing():
    """An empty dict, a generator, and what draws a convolution and a norm into it by PyTorch names.

    From RandomState, the one generator whose numbers NumPy has promised never to change.
    """
    rng = np.random.RandomState(0)
    arrays = {}

    def conv(name, c_in, c_out, side):
        scale = np.sqrt(2 / (side * side * c_in))
        kernel = scale * rng.standard_normal((c_out, c_in, side, side))
        arrays[f"{name}.weight"] = kernel.astype(np.float32)

    def norm(name, channels):
        values = {
            "weight": 1 + 0.2 * rng.standard_normal(channels),
            "bias": 0.2 * rng.standard_normal(channels),
            "running_mean": 0.2 * rng.standard_normal(channels),
            "running_var": 0.5 + rng.random_sample(channels),
        }
        for key, value in values.items():
            arrays[f"{name}.{key}"] = value.astype(np.float32)
        arrays[f"{name}.num_batches_tracked"] = np.array(7)

    return arrays, rng, conv, norm


def published_arrays(
    kind: str, blocks: tuple[int, ...] = (), width: int = 64, *, se_bias: bool = True
) -> dict[str, np.ndarray]:
    """Weights and batch statistics under timm's names, classifier included."""
    which = resnet.KINDS[kind]
    arrays, rng, conv, norm = drawing()
    conv("conv1", 3, width, 7)
    norm("bn1", width)
    c_in = width
    for stage, count in enumerate(blocks or which.blocks):
        inside = width * 2**stage
        out = 4 * inside if which.bottleneck else inside
        sides = (1, 3, 1) if which.bottleneck else (3, 3)
        for block in range(count):
            name, c_block = f"layer{stage + 1}.{block}", c_in
            for i, side in enumerate(sides, 1):
                channels = out if i == len(sides) else inside
                conv(f"{name}.conv{i}", c_block, channels, side)
                norm(f"{name}.bn{i}", channels)
                c_block = channels
            if which.squeeze_excitation:
                conv(f"{name}.se.fc1", out, out // 16, 1)
                conv(f"{name}.se.fc2", out // 16, out, 1)
                if se_bias:
                    arrays[f"{name}.se.fc1.bias"] = rng.standard_normal(out // 16).astype("f4")
                    arrays[f"{name}.se.fc2.bias"] = rng.standard_normal(out).astype("f4")
            if block == 0 and (stage > 0 or c_in != out):
                conv(f"{name}.downsample.0", c_in, out, 1)
                norm(f"{name}.downsample.1", out)
            c_in = out
    arrays["fc.weight"] = np.zeros((10, c_in), np.float32)
    arrays["fc.bias"] = np.zeros(10, np.float32)
    return arrays


def torch_norm(torch, y, arrays, name):
    """BatchNorm2d by its running statistics."""
    kinds = ("running_mean", "running_var", "weight", "bias")
    mean, var, scale, offset = (torch.from_numpy(arrays[f"{name}.{kind}"]) for kind in kinds)
    return torch.nn.functional.batch_norm(y, mean, var, scale, offset)


def torch_maps(torch, arrays, images):
    """The stem's and every stage's map, (B, C, H, W), of images of that layout."""
    f = torch.nn.functional

    def conv_norm(y, conv, norm, stride=1):
        kernel = torch.from_numpy(arrays[f"{conv}.weight"])
        y = f.conv2d(y, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        return torch_norm(torch, y, arrays, norm)

    def fully_connected(y, name):
        bias = arrays.get(f"{name}.bias")
        bias = None if bias is None else torch.from_numpy(bias)
        return f.conv2d(y, torch.from_numpy(arrays[f"{name}.weight"]), bias)

    y = torch.relu(conv_norm(images, "conv1", "bn1", 2))
    maps = [y]
    y = f.max_pool2d(y, 3, 2, 1)
    stage, block = 1, 0
    while f"layer{stage}.0.conv1.weight" in arrays:
        while f"layer{stage}.{block}.conv1.weight" in arrays:
            name = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            last = 3 if f"{name}.conv3.weight" in arrays else 2
            strided = last - 1
            x = y
            for i in range(1, last + 1):
                step = stride if i == strided else 1
                y = conv_norm(y, f"{name}.conv{i}", f"{name}.bn{i}", step)
                y = torch.relu(y) if i < last else y
            if f"{name}.se.fc1.weight" in arrays:
                hidden = fully_connected(y.mean((2, 3), keepdim=True), f"{name}.se.fc1")
                y = y * torch.sigmoid(fully_connected(torch.relu(hidden), f"{name}.se.fc2"))
            if f"{name}.downsample.0.weight" in arrays:
                x = conv_norm(x, f"{name}.downsample.0", f"{name}.downsample.1", stride)
            y = torch.relu(y + x)
            block += 1
        maps.append(y)
        stage, block = stage + 1, 0
    return maps
