"""The full-size generator's training step: forms of its grouped convolutions, and PyTorch.

The network, loss and optimiser are those of configs/generator.py:paper. XLA's own form of a grouped
convolution (feature_group_count, what `flax.linen.Conv` does) has a slow weight gradient on CPU;
the form that the models use there avoids it, and this measures by how much.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any
from unittest import mock

import jax
import numpy as np
from ml_collections import ConfigDict

from configs import generator
from histojax.config import from_values, to_values
from histojax.data import cores
from histojax.models import layers
from histojax.runs import workdirs
from histojax.stages import build_stage
from histojax.training import sharding
from launch import benchmark_timing as timing


def paper_config(*, crop: int = 256, **fields: Any) -> ConfigDict:
    """configs/generator.py:paper with another crop (hr px) or other fields of its network."""
    config = generator.get_config("paper")
    config.data.crop = crop
    config.generator.update(fields)
    return config


def measure_form(
    values: Mapping[str, Any], *, form: str, batch_size: int, repeats: int
) -> dict[str, Any]:
    """The generator's training step on one device with a form of grouped convolution.

    Args:
        values: a generator stage's config.
        form: one of `layers.GROUPED_FORMS`.
        batch_size: images.
        repeats: steps that are timed.

    Returns:
        form (resolved), batch_size, parameters, and what `timing.compiled`, `timing.repeated` and
        `timing.peak_memory` give.
    """
    config = from_values(dict(values))
    mesh = sharding.data_mesh(jax.devices()[:1])
    stage = build_stage(config, {})
    example = workdirs.example_batch(config)
    state = sharding.replicate(workdirs.fresh_state(stage, config), mesh)
    rng = np.random.default_rng(0)
    batch = {
        name: rng.integers(0, 256, (batch_size, *example[name].shape[1:]), np.uint8)
        for name in stage.fields
    }
    batch = sharding.place_batch(batch, mesh)
    backend = jax.default_backend()
    form = layers.grouped_conv_form(backend) if form == "auto" else form
    with mock.patch.object(layers, "grouped_conv_form", return_value=form):
        step_of = sharding.train_step(stage.train_step, mesh)
        take_step, measured = timing.compiled(step_of, state, batch)

    def step() -> None:
        nonlocal state
        state, metrics = take_step(state, batch)
        jax.block_until_ready((state, metrics))

    return {
        "form": form,
        "batch_size": batch_size,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        **measured,
        **timing.repeated(step, repeats),
        **timing.peak_memory(),
    }


def torch_generator(fields: Mapping[str, Any]) -> Any:
    """The generator as PyTorch has it: prelu, batch normalisation, pixel shuffle, tanh, x4.

    Args:
        fields: blocks, features, width, cardinality, head_kernel, tail_kernel.
    """
    from torch import nn

    features, width = fields["features"], fields["width"]

    class Residual(nn.Sequential):
        def forward(self, x: Any) -> Any:
            return x + super().forward(x)

    class ToUnit(nn.Module):
        def forward(self, x: Any) -> Any:
            return (x.tanh() + 1) / 2

    def convolution(c_in: int, c_out: int, side: int, **options: Any) -> nn.Conv2d:
        return nn.Conv2d(c_in, c_out, side, padding=side // 2, **options)

    def block() -> nn.Module:
        return Residual(
            convolution(features, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.PReLU(width),
            convolution(width, width, 3, groups=fields["cardinality"], bias=False),
            nn.BatchNorm2d(width),
            nn.PReLU(width),
            convolution(width, features, 1, bias=False),
            nn.BatchNorm2d(features),
        )

    def doubling() -> list[nn.Module]:
        return [convolution(features, 4 * features, 3), nn.PixelShuffle(2), nn.PReLU(features)]

    return nn.Sequential(
        convolution(3, features, fields["head_kernel"]),
        nn.PReLU(features),
        Residual(
            *(block() for _ in range(fields["blocks"])),
            convolution(features, features, 3, bias=False),
            nn.BatchNorm2d(features),
        ),
        *doubling(),
        *doubling(),
        convolution(features, 3, fields["tail_kernel"]),
        ToUnit(),
    )


def measure_torch(values: Mapping[str, Any], *, batch_size: int, repeats: int) -> dict[str, Any]:
    """The same training step in PyTorch: channels_last, float32, Adam, averaged parameters, on CPU.

    Returns:
        batch_size, threads, parameters, version, and what `timing.repeated` gives; or {"skipped":
        reason} where there is no PyTorch, or JAX does not run on CPU.
    """
    if importlib.util.find_spec("torch") is None:
        return {"skipped": "torch is not installed"}
    if jax.default_backend() != "cpu":
        return {"skipped": f"compared on CPU only, and JAX runs on {jax.default_backend()}"}
    import torch

    threads = len(cores.usable())
    torch.set_num_threads(threads)
    config = from_values(dict(values))
    network = torch_generator(config.generator).to(memory_format=torch.channels_last)
    parameters = list(network.parameters())
    average = [parameter.detach().clone() for parameter in parameters]
    optimizer = torch.optim.Adam(
        parameters, config.optimizer.learning_rate, (config.optimizer.b1, config.optimizer.b2)
    )
    crop = config.data.crop

    def images(side: int) -> Any:
        made = torch.rand(batch_size, 3, side, side)
        return made.contiguous(memory_format=torch.channels_last)

    lr, hr = images(crop // config.data.scale), images(crop)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        (network(lr) - hr).square().mean().backward()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, parameters, 1 - config.ema_decay)

    return {
        "batch_size": batch_size,
        "threads": threads,
        "parameters": sum(parameter.numel() for parameter in parameters),
        "version": torch.__version__,
        **timing.repeated(step, repeats),
        "peak_bytes": timing.process_peak_bytes(),
        "peak_of": "process",
    }


def measure(
    *,
    batch_size: int,
    naive_batch_size: int,
    repeats: int,
    forms: Sequence[str] = ("grouped",),
    config: ConfigDict | None = None,
) -> dict[str, Any]:
    """The form in use against others, each in a process of its own, one after the other.

    Args:
        batch_size: of the form in use, and of PyTorch.
        naive_batch_size: of the other forms; where it differs, the form in use is measured at it
            too, and ratios are between equal batches.
        repeats: steps that are timed; fewer where a step is slow (`timing.repeated`).
        forms: others to compare with, of `layers.GROUPED_FORMS`.
        config: a generator stage's config; None takes `paper_config()`.

    Returns:
        network, crop; used: rows of the form in use; others: rows with times_slower, how many times
        the step of the form in use they take; torch: a row, with times_faster where it was run. The
        same two in CPU time end in _cpu.
    """
    config = config or paper_config()
    values = to_values(config)
    used = {
        size: timing.apart(
            measure_form, values, form="auto", batch_size=size, repeats=repeats, trains=True
        )
        for size in dict.fromkeys((batch_size, naive_batch_size))
    }
    others = []
    for form in forms:
        row = timing.apart(
            measure_form,
            values,
            form=form,
            batch_size=naive_batch_size,
            repeats=repeats,
            trains=True,
        )
        row["times_slower"] = _ratio(row, used[naive_batch_size])
        row["times_slower_cpu"] = _ratio(row, used[naive_batch_size], "cpu_seconds")
        others.append(row)
    torch_row = timing.apart(
        measure_torch, values, batch_size=batch_size, repeats=repeats, trains=True
    )
    if "seconds" in torch_row:
        torch_row["times_faster"] = _ratio(used[batch_size], torch_row)
        torch_row["times_faster_cpu"] = _ratio(used[batch_size], torch_row, "cpu_seconds")
    return {
        "network": values["generator"],
        "crop": values["data"]["crop"],
        "used": list(used.values()),
        "others": others,
        "torch": torch_row,
    }


def _ratio(a: Mapping[str, Any], b: Mapping[str, Any], of: str = "seconds") -> float:
    return a[of] / b[of]
