"""Every convolution of a stage's networks by itself, in JAX and in PyTorch, forward and backward.

What the convolutions of a step take together is the least that the step can take.
"""

import collections
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from histojax.components import networks
from histojax.config import from_values
from histojax.data import cores
from histojax.models.depthwise import DepthwiseConv
from histojax.models.layers import Conv
from histojax.runs import workdirs
from launch.benchmark import timing
from launch.benchmark.steps import Row, untrained_stage


class Layer(NamedTuple):
    """A convolution of a batch: its shapes, and how it walks over them."""

    x: tuple[int, ...]
    kernel: tuple[int, ...]
    y: tuple[int, ...]
    stride: int
    groups: int

    @property
    def name(self) -> str:
        side = f"{self.kernel[0]}x{self.kernel[1]}"
        groups = f", {self.groups} groups" if self.groups > 1 else ""
        stride = f", stride {self.stride}" if self.stride > 1 else ""
        return f"{self.x[-1]} to {self.y[-1]}, {side}{groups}{stride}, {self.x[1]} px"


def measure(values: Mapping[str, Any], *, name: str, repeats: int, torch: bool) -> list[Row]:
    """A row for each kind of convolution of a stage, and their sum; milliseconds of CPU or device.

    `uses` counts the layers of a kind. `forward_ms`, `input_ms` and `weights_ms` are of one layer,
    and those that begin with `torch_` are PyTorch's, with channels last. Each row of the sum counts
    a layer as often as it is used.
    """
    config = from_values(dict(values))
    rng = np.random.default_rng(0)
    total: collections.Counter[str] = collections.Counter()
    rows: list[Row] = []
    for layer, (uses, module) in _convolutions(config).items():
        x, kernel, g = (rng.normal(0, 1, s).astype(np.float32) for s in layer[:3])
        runs = _in_jax(module, x, kernel, g, networks.compute_dtype(config))
        if torch:
            runs |= _in_torch(layer, x, kernel, g)
        spent = {key: 1e3 * timing.timed(run, repeats)["seconds_min"] for key, run in runs.items()}
        total.update({key: uses * each for key, each in spent.items()})
        rows.append({"name": f"{name}: {layer.name}", "uses": uses, **spent})
    return [*rows, {"name": f"{name}: all", "uses": sum(row["uses"] for row in rows), **total}]


def _convolutions(config: Any) -> dict[Layer, tuple[int, nn.Module]]:
    # Each kind of a stage's convolutions, how often it is used, and a module of it.
    stage, found = untrained_stage(config), {}

    def note(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        y, module = call(*args, **kwargs), context.module
        kinds = Conv | nn.Conv | DepthwiseConv
        if isinstance(module, kinds) and context.method_name == "__call__":
            (x, *_), kernel = args, module.get_variable("params", "kernel").shape
            groups = x.shape[-1] // kernel[2]
            layer = Layer(x.shape, kernel, y.shape, round(x.shape[1] / y.shape[1]), groups)
            without = {} if isinstance(module, DepthwiseConv) else {"use_bias": False}
            found[layer] = found.get(layer, (0,))[0] + 1, module.clone(parent=None, **without)
        return y

    examples = stage.inputs(workdirs.example_batch(config))
    for key, module in stage.networks.items():
        count = config.data.batch_size
        inputs = [jax.ShapeDtypeStruct((count, *x.shape[1:]), x.dtype) for x in examples[key]]
        with nn.intercept_methods(note):
            jax.eval_shape(lambda *x, m=module: m.init(jax.random.key(0), *x, train=False), *inputs)
    return found


def _in_jax(module: nn.Module, x: Any, kernel: Any, g: Any, dtype: Any) -> dict[str, Any]:
    x, kernel, g = jnp.asarray(x, dtype), jnp.asarray(kernel), jnp.asarray(g, dtype)

    def layer(x: jax.Array, kernel: jax.Array) -> Any:
        return module.apply({"params": {"kernel": kernel}}, x)

    passes = {
        "forward": lambda x, kernel, g: layer(x, kernel),
        "input": lambda x, kernel, g: jax.vjp(lambda x: layer(x, kernel), x)[1](g),
        "weights": lambda x, kernel, g: jax.vjp(lambda k: layer(x, k), kernel)[1](g),
    }
    programs = {
        key: timing.compiled(jax.jit(each), x, kernel, g)[0] for key, each in passes.items()
    }
    return {
        f"{key}_ms": lambda program=program: jax.block_until_ready(program(x, kernel, g))
        for key, program in programs.items()
    }


def _in_torch(layer: Layer, x: Any, kernel: Any, g: Any) -> dict[str, Any]:
    import torch

    torch.set_num_threads(len(cores.usable()))
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    x, g = (torch.from_numpy(each).permute(0, 3, 1, 2).to(device) for each in (x, g))
    w = torch.from_numpy(kernel).permute(3, 2, 0, 1).to(device)
    # What both sides are padded by in all, less before and more after.
    rows, columns = (
        max((out - 1) * layer.stride + side - own, 0)
        for own, side, out in zip(layer.x[1:3], layer.kernel, layer.y[1:3], strict=False)
    )
    around = columns // 2, columns - columns // 2, rows // 2, rows - rows // 2
    x = torch.nn.functional.pad(x, around)
    x, g, w = (each.contiguous(memory_format=torch.channels_last) for each in (x, g, w))
    walk = [layer.stride] * 2, [0, 0], [1, 1], False, [0, 0], layer.groups

    def wait(result: Any) -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    @torch.no_grad()
    def backward(*wanted: bool) -> None:
        wait(torch.ops.aten.convolution_backward(g, x, w, None, *walk, [*wanted, False]))

    return {
        "torch_forward_ms": torch.no_grad()(
            lambda: wait(torch.ops.aten.convolution(x, w, None, *walk))
        ),
        "torch_input_ms": lambda: backward(True, False),
        "torch_weights_ms": lambda: backward(False, True),
    }
