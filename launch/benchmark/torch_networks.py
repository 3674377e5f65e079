"""histojax's networks in PyTorch, to be measured beside: the same layers under the same names.

A network here has the class name and the fields of a linen module, whose docstring explains them.
B batch, C channels, H and W pixels: tensors are (B, C, H, W).
"""

import functools
import types
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from histojax.models import resnet
from histojax.models.generators.frame import UPSAMPLING_STEPS
from histojax.models.resizing import gaussian_radius
from histojax.models.vgg import IMAGENET_MEAN, IMAGENET_STD

relu = functools.partial(F.relu, inplace=True)


class Network(nn.Module):
    """A network that makes its layers as it first runs, as `flax.linen.compact` does."""

    def __init__(self, **fields: Any):
        super().__init__()
        self.fields = types.SimpleNamespace(**fields)

    def layer(self, name: str, kind: Any, *args: Any, **options: Any) -> Any:
        if not hasattr(self, name):
            self.add_module(name, kind(*args, **options))
        return getattr(self, name)

    def inner(self, name: str, kind: "type[Network]", x: Tensor, **fields: Any) -> Tensor:
        # A submodule that shares this network's fields.
        return self.layer(name, kind, **{**vars(self.fields), **fields})(x)

    def conv(
        self, x: Tensor, name: str, features: int, side: int = 3, kind: Any = nn.Conv2d, **options
    ) -> Tensor:
        options = {"padding": (side - 1) // 2, **options}
        return self.layer(name, kind, x.shape[1], features, side, **options)(x)

    def wide(self, x: Tensor, name: str, features: int, side: int = 3) -> Tensor:
        # In float32, also where all else is in bfloat16.
        with torch.autocast(x.device.type, enabled=False):
            return self.conv(x.float(), name, features, side)

    def norm(self, x: Tensor, kind: str, name: str) -> Tensor:
        if kind == "none":
            return x
        if kind == "instance":
            return F.instance_norm(x)
        options = {"batch": (1e-5, 0.1), "keras_batch": (1e-3, 0.2)}[kind]
        return self.layer(name, nn.BatchNorm2d, x.shape[1], *options)(x)

    def activate(self, x: Tensor, kind: str, name: str) -> Tensor:
        return relu(x) if kind == "relu" else self.layer(name, nn.PReLU, x.shape[1])(x)


class Alike(nn.Conv2d):
    """A convolution whose every `alike` neighbouring outputs answer a constant input alike."""

    def __init__(self, *args: Any, alike: int, **options: Any):
        super().__init__(*args, **options)
        self.alike = alike

    def forward(self, x: Tensor) -> Tensor:
        answer = self.weight.mean((2, 3), keepdim=True)
        kernel = self.weight - answer + self._shared(answer)
        return self._conv_forward(x, kernel, self._shared(self.bias))

    def _shared(self, x: Tensor) -> Tensor:
        grouped = x.unflatten(0, (-1, self.alike))
        return grouped.mean(1, keepdim=True).expand_as(grouped).flatten(0, 1)


def bicubic(x: Tensor, r: int) -> Tensor:
    # With antialias the cubic is Keys' with a = -1/2, and weights outside are dropped.
    return F.interpolate(x, scale_factor=r, mode="bicubic", antialias=True)


def gaussian_blur(x: Tensor, sigma: float) -> Tensor:
    radius = gaussian_radius(sigma)
    offsets = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
    for shape, padding in (((1, 1, -1, 1), (radius, 0)), ((1, 1, 1, -1), (0, radius))):
        kernel = weights.reshape(shape)
        inside = F.conv2d(torch.ones_like(x[:1, :1]), kernel, padding=padding)
        kernel = kernel.expand(x.shape[1], -1, -1, -1)
        x = F.conv2d(x, kernel, padding=padding, groups=x.shape[1]) / inside
    return x


class ResNeXtBlock(Network):
    def forward(self, x: Tensor) -> Tensor:
        f, y = self.fields, x
        for name, side, groups in ("reduce", 1, 1), ("grouped", 3, f.cardinality):
            y = self.conv(y, name, f.width, side, groups=groups, bias=f.norm != "batch")
            y = self.activate(self.norm(y, f.norm, f"{name}_norm"), f.activation, f"{name}_act")
        y = self.conv(y, "expand", x.shape[1], 1, bias=f.norm != "batch")
        return x + f.residual_scale * self.norm(y, f.norm, "expand_norm")


class ResidualBlock(Network):
    def forward(self, x: Tensor) -> Tensor:
        f, bias = self.fields, self.fields.norm != "batch"
        y = self.norm(self.conv(x, "conv_0", x.shape[1], bias=bias), f.norm, "norm_0")
        y = self.conv(self.activate(y, f.activation, "act"), "conv_1", x.shape[1], bias=bias)
        return x + f.residual_scale * self.norm(y, f.norm, "norm_1")


class SuperResolution(Network):
    block: type[Network]

    def forward(self, images: Tensor) -> Tensor:
        f = self.fields
        x = self.conv(images, "head", f.features, f.head_kernel)
        x = head = self.activate(x, f.activation, "head_act")
        for i in range(f.blocks):
            x = self.inner(f"block_{i}", self.block, x)
        x = self.conv(x, "trunk", f.features, bias=f.norm != "batch")
        y = self.enlarge(head + self.norm(x, f.norm, "trunk_norm")).float()
        if f.output == "tanh":
            y = torch.tanh(y) if f.skip == "bicubic" else (torch.tanh(y) + 1) / 2
        if f.skip == "bicubic":
            y = y + bicubic(images, f.scale)
        if f.anchor and not self.training:
            with torch.autocast(y.device.type, enabled=False):
                missing = images - F.avg_pool2d(y, f.scale)
                low = gaussian_blur(missing, f.anchor)
                low = low + gaussian_blur(missing - low, f.anchor)
                y = y + bicubic(low, f.scale)
        return y

    def enlarge(self, x: Tensor) -> Tensor:
        f = self.fields
        direct = f.upsampling == "direct"
        for i, r in enumerate((f.scale,) if direct else UPSAMPLING_STEPS[f.scale]):
            name, features = ("tail", 3) if direct else (f"upsample_{i}", f.features)
            kind = functools.partial(Alike, alike=r * r) if f.phases == "alike" else nn.Conv2d
            x = F.pixel_shuffle(self.conv(x, name, features * r * r, kind=kind), r)
            if not direct:
                x = self.activate(x, f.activation, f"{name}_act")
        return x if direct else self.conv(x, "tail", 3, f.tail_kernel)


class ResNeXt(SuperResolution):
    block = ResNeXtBlock


class SRResNet(SuperResolution):
    block = ResidualBlock


class DoubleConv(Network):
    def forward(self, x: Tensor) -> Tensor:
        f = self.fields
        for i in range(2):
            x = self.conv(x, f"conv_{i}", f.features, bias=f.use_bias or f.norm == "none")
            x = relu(self.norm(x, f.norm, f"norm_{i}"))
        return x


class InceptionBlock(Network):
    def forward(self, x: Tensor) -> Tensor:
        f, quarter = self.fields, self.fields.features // 4

        def conv(y: Tensor, features: int, side: int, name: str) -> Tensor:
            y = self.conv(y, name, features, side, bias=f.norm == "none")
            return self.norm(y, f.norm, f"{name}_norm")

        one, three, five = relu(conv(x, 3 * quarter, 1, "reduce")).chunk(3, 1)
        three = relu(conv(three, quarter, 3, "three"))
        for name, side in (("five", 5),) if f.five == "5x5" else (("five_0", 3), ("five_1", 3)):
            five = relu(conv(five, quarter, side, name))
        pooled = relu(conv(F.max_pool2d(x, 3, 1, 1), quarter, 1, "pooled"))
        y = torch.cat([one, three, five, pooled], 1)
        if f.fuse:
            y = relu(conv(y, f.features, 1, "fuse"))
        if not f.residual:
            return y
        return y + (x if x.shape[1] == f.features else conv(x, f.features, 1, "project"))


class UNet(Network):
    def level(self, x: Tensor, name: str, features: int) -> Tensor:
        return self.inner(name, DoubleConv, x, features=features, use_bias=False)

    def enlarge(self, x: Tensor, name: str, features: int) -> Tensor:
        x = F.pad(F.interpolate(x, scale_factor=2), (0, 1, 0, 1))
        return relu(self.conv(x, name, features, 2, padding=0))

    def forward(self, x: Tensor) -> Tensor:
        f, x, maps = self.fields, 2 * x - 1, []
        x = F.pixel_unshuffle(x, f.stem_stride)
        for n in range(f.depth + 1):
            x = F.max_pool2d(x, 2) if n else x
            x = self.level(x, f"encoder_{n}", f.features * 2**n)
            if f.dropout and n >= f.depth - 1:
                x = F.dropout(x, f.dropout, self.training)
            maps.append(x)
        for n in reversed(range(f.depth)):
            width = f.features * 2**n
            x = torch.cat([maps[n], self.enlarge(x, f"up_{n}", width)], 1)
            x = self.level(x, f"decoder_{n}", width)
        if getattr(f, "head_features", 0):
            x = relu(self.wide(x, "before_head", f.head_features))
        features = len(f.heads) * f.stem_stride**2
        x = self.wide(x, "head", features, 1 if f.stem_stride == 1 else 3)
        return F.pixel_shuffle(x, f.stem_stride)


class InceptionUNet(UNet):
    def level(self, x: Tensor, name: str, features: int) -> Tensor:
        for i in range(self.fields.blocks_per_level):
            x = self.inner(f"{name}_{i}", InceptionBlock, x, features=features)
        return x

    def enlarge(self, x: Tensor, name: str, features: int) -> Tensor:
        if self.fields.upsampling == "transposed":
            return F.pixel_shuffle(self.conv(x, name, 4 * features, 1), 2)
        return self.conv(F.interpolate(x, scale_factor=2, mode="bilinear"), name, features)


class Block(Network):
    def conv_norm(self, x: Tensor, names: str, features: int, side: int, stride: int) -> Tensor:
        conv, norm = names.split()
        x = self.conv(x, conv, features, side, stride=stride, bias=False)
        return self.norm(x, "batch", norm)

    def forward(self, x: Tensor) -> Tensor:
        f = self.fields
        width, out, y = f.features, f.features * (4 if f.bottleneck else 1), x
        shapes = [(width, 3, f.stride), (out, 3, 1)]
        if f.bottleneck:
            shapes = [(width, 1, 1), (width, 3, f.stride), (out, 1, 1)]
        for i, shape in enumerate(shapes, 1):
            y = self.conv_norm(y if i == 1 else relu(y), f"conv{i} bn{i}", *shape)
        if f.squeeze_excitation:
            y = self.inner("se", SqueezeExcitation, y)
        if f.stride > 1 or x.shape[1] != out:
            x = self.conv_norm(x, "downsample_conv downsample_bn", out, 1, f.stride)
        return relu(y + x)


class SqueezeExcitation(Network):
    def forward(self, x: Tensor) -> Tensor:
        f, channels = self.fields, x.shape[1]
        mean = x.mean((2, 3), keepdim=True)
        hidden = self.conv(mean, "fc1", max(channels // f.se_reduction, 1), 1, bias=f.se_bias)
        return x * torch.sigmoid(self.conv(relu(hidden), "fc2", channels, 1, bias=f.se_bias))


class ResNet(Network):
    def forward(self, x: Tensor) -> list[Tensor]:
        f = self.fields
        which = resnet.kind(f.encoder)
        x = self.conv(x, "conv1", f.width, 7, stride=2, bias=False)
        x = relu(self.norm(x, "batch", "bn1"))
        maps, x = [x], F.max_pool2d(x, 3, 2, 1)
        for stage, count in enumerate(f.blocks or which.blocks):
            for block in range(count):
                fields = {"features": f.width * 2**stage, **which._asdict()}
                stride = 2 if stage > 0 and block == 0 else 1
                x = self.inner(f"layer{stage + 1}_{block}", Block, x, **fields, stride=stride)
            maps.append(x)
        return maps


class SEUNet(Network):
    def forward(self, x: Tensor) -> Tensor:
        f = self.fields
        if f.imagenet_input:
            mean, std = (x.new_tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
            x = (x - mean) / std
        maps: Any = self.inner("trunk", ResNet, x)
        names = [f"decoder_{n}" for n in reversed(range(len(maps) - 1))]
        skips = [[skip] for skip in reversed(maps[:-1])]
        full = len(f.decoder_features) > len(names)
        double = {"use_bias": True, "norm": "batch"}
        if full:
            names.append("decoder_full")
            skips.append([])
        if f.stem_skip:
            fields = {**double, "features": f.stem_skip, "use_bias": False}
            skips[-1].append(self.inner("image_skip", DoubleConv, x, **fields))
        y, corners = maps[-1], f.resizing == "align_corners"
        for name, width, skip in zip(names, f.decoder_features, skips, strict=True):
            y = F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=corners)
            y = self.inner(name, DoubleConv, torch.cat([y, *skip], 1), features=width, **double)
        y = F.dropout(y, f.dropout, self.training) if f.dropout else y
        y = self.wide(y, "head", len(f.heads) * (1 if full else 4))
        return y if full else F.pixel_shuffle(y, 2)


def _spectral(*args: Any, **options: Any) -> nn.Module:
    return spectral_norm(nn.Conv2d(*args, **options))


class PatchDiscriminator(Network):
    def forward(self, x: Tensor) -> Tensor:
        f, x, last = self.fields, 2 * x - 1, len(self.fields.widths)
        for i, width in enumerate((*f.widths, 1)):
            normalized = 0 < i < last and f.norm != "none"
            options = {"stride": 2 if i < last - 1 else 1, "bias": not normalized}
            kind = _spectral if f.spectral_norm else nn.Conv2d
            x = self.conv(x, f"conv_{i}", width, 4, kind, **options)
            x = self.norm(x, f.norm, f"norm_{i}") if normalized else x
            x = F.leaky_relu(x, 0.2) if i < last else x
        return x.float()


_ALL = (ResNeXt, SRResNet, InceptionUNet, UNet, SEUNet, PatchDiscriminator)
NETWORKS = {kind.__name__: kind for kind in _ALL}


def build(kind: str, fields: Mapping[str, Any], shape: Sequence[int]) -> nn.Module:
    """The network of a linen module's class name and fields, for images (H, W, C)."""
    network = NETWORKS[kind](**fields).eval()
    with torch.no_grad():
        network(torch.zeros(1, shape[2], *shape[:2]))
    return network.train()
