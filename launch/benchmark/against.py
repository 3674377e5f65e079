"""Each network of a stage in JAX and in PyTorch: a step of training, and the forward pass alone.

A step is forward, backward and AdamW, to the mean square of the outputs, on one device and in the
stage's precision. Weights are untrained, because they do not change the time.
"""

import dataclasses
import functools
import importlib.metadata
import importlib.util
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from histojax.components import networks
from histojax.config import from_values
from histojax.data import cores
from histojax.errors import UserError
from histojax.inference import program_export
from histojax.models import efficientnet
from histojax.runs import workdirs
from launch.benchmark import timing
from launch.benchmark.steps import Row, untrained_stage

FORMS = ("eager", "channels_last", "compiled channels_last")
# By the platform of JAX.
_DEVICES = {"cpu": "cpu", "gpu": "cuda"}
# Seconds for the repeats of a step. On CPU one step of many may take three times as long, where
# glibc maps the 4.5 GB of temporaries of segmentation.py:gpu at another place.
_PATIENCE = 120.0


def version() -> str:
    """PyTorch's.

    Raises:
        UserError: it is not installed.
    """
    if importlib.util.find_spec("torch") is None:
        raise UserError("--against=torch needs PyTorch, which is not installed: pip install torch")
    return importlib.metadata.version("torch")


def compare(
    values: Mapping[str, Any], *, name: str, repeats: int, kept: Mapping[str, Row] | None = None
) -> Iterator[Row]:
    """For each network of a stage rows of JAX, of each of `FORMS`, and of ONNX Runtime.

    Each is measured in a process of its own; ONNX Runtime has no training. A row that was not
    measured says in `failed` why. `jax_over_torch_seconds` is JAX's time of the step over
    PyTorch's, and so on for other times. `kept` has rows of an earlier call by their names, which
    are not measured again.

    Raises:
        UserError: the two networks differ in their number of parameters, or PyTorch does not see
            the device that JAX computes on.
    """
    from launch.benchmark import torch_networks

    kept = kept or {}
    for network in timing.apart(described, values=values):
        title = f"{name}: {network['network']}"
        kind, encoder = network["kind"], network["fields"].get("encoder")
        if kind not in torch_networks.NETWORKS or encoder == efficientnet.NAME:
            of = f" with the encoder {encoder}" if encoder else ""
            failed = f"launch/benchmark/torch_networks.py has no {kind}{of}, so it is not compared"
            yield {"name": f"{title}, PyTorch", "failed": failed}
            continue
        check(network)
        own = kept.get(f"{title}, JAX") or {
            "name": f"{title}, JAX",
            **timing.apart(measure_jax, values=values, network=network["network"], repeats=repeats),
        }
        yield own
        for form in FORMS:
            row = kept.get(f"{title}, PyTorch {form}")
            if row is None:
                measured = timing.apart(measure_torch, network=network, form=form, repeats=repeats)
                row = {"name": f"{title}, PyTorch {form}", **measured}
                if "failed" not in row:
                    for key in ("seconds", "cpu_seconds", "forward_seconds", "forward_cpu_seconds"):
                        row[f"jax_over_torch_{key}"] = own[key] / row[key]
            yield row
        yield kept.get(f"{title}, ONNX Runtime") or {
            "name": f"{title}, ONNX Runtime",
            **timing.apart(
                measure_onnx, values=values, network=network["network"], repeats=repeats
            ),
        }


def described(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A stage's networks as plain values, to be built without JAX."""
    config = from_values(dict(values))
    stage = untrained_stage(config)
    found = []
    examples = stage.inputs(workdirs.example_batch(config))
    for name, module in stage.networks.items():
        inputs = examples[name]
        init = functools.partial(module.init, train=False)
        variables = jax.eval_shape(init, jax.random.key(0), *inputs)
        found.append(
            {
                "network": name,
                "kind": type(module).__name__,
                "fields": fields_of(module),
                "shape": (config.data.batch_size, *inputs[0].shape[1:]),
                "dtype": jnp.dtype(networks.compute_dtype(config)).name,
                "platform": jax.default_backend(),
                "parameters": sum(leaf.size for leaf in jax.tree.leaves(variables["params"])),
            }
        )
    return found


def fields_of(module: nn.Module) -> dict[str, Any]:
    """The fields of a linen module that say what it computes, as plain values."""
    names = {field.name for field in dataclasses.fields(module)} - {"parent", "name", "dtype"}
    return {name: getattr(module, name) for name in sorted(names)}


def check(network: Mapping[str, Any]) -> None:
    """Refuses a network of `described` that PyTorch has with another number of parameters."""
    import torch

    from launch.benchmark import torch_networks

    device = _DEVICES.get(network["platform"])
    if device is None or (device == "cuda" and not torch.cuda.is_available()):
        raise UserError(
            f"JAX computes on {network['platform']}, which this PyTorch does not see; install "
            "PyTorch for that device, or set JAX_PLATFORMS=cpu to compare on the CPU"
        )
    built = torch_networks.build(network["kind"], network["fields"], network["shape"][1:])
    count = sum(parameter.numel() for parameter in built.parameters())
    if count != network["parameters"]:
        raise UserError(
            f"{network['kind']} has {network['parameters']:,} parameters in JAX and {count:,} in "
            "PyTorch, and so is another network there; mend launch/benchmark/torch_networks.py, or "
            "leave out --against"
        )


def measure_jax(values: Mapping[str, Any], *, network: str, repeats: int) -> Row:
    """A network of a stage on the first device, in JAX; its donated step, then `forward_`."""
    module, rest, image = _drawn(values, network)
    params, adamw = rest.pop("params"), optax.adamw(1e-3)

    def loss(params: Any, rest: Any, image: jax.Array) -> tuple[jax.Array, Any]:
        rngs = {"dropout": jax.random.key(0)}
        variables = {"params": params, **rest}
        y, rest = module.apply(variables, image, train=True, mutable=[*rest], rngs=rngs)
        return jnp.mean(y**2), rest

    def step(state: Any, image: jax.Array) -> Any:
        params, rest, adam = state
        grads, rest = jax.grad(loss, has_aux=True)(params, rest, image)
        updates, adam = adamw.update(grads, adam, params)
        return optax.apply_updates(params, updates), rest, adam

    def forward(state: Any, image: jax.Array) -> jax.Array:
        return module.apply({"params": state[0], **state[1]}, image, train=False)

    state = (params, rest, adamw.init(params))
    passing, _ = timing.compiled(jax.jit(forward), state, image)
    spent = timing.timed(lambda: jax.block_until_ready(passing(state, image)), repeats)
    training, compiled = timing.compiled(jax.jit(step, donate_argnums=0), state, image)

    def run() -> None:
        nonlocal state
        state = jax.block_until_ready(training(state, image))

    run()  # as in PyTorch, two steps come before those timed
    count = sum(leaf.size for leaf in jax.tree.leaves(state[0]))
    training_spent = timing.timed(run, repeats, patience=_PATIENCE)
    return _row(image.shape, count, compiled | training_spent, spent, timing.peak_bytes())


def _drawn(values: Mapping[str, Any], network: str) -> tuple[nn.Module, dict[str, Any], jax.Array]:
    """A network of a stage, variables drawn for it, and images, on the first device."""
    config = from_values(dict(values))
    stage = untrained_stage(config)
    module = stage.networks[network]
    (example,) = stage.inputs(workdirs.example_batch(config))[network]
    rng = np.random.default_rng(0)
    image = rng.random((config.data.batch_size, *example.shape[1:]), np.float32)

    def fresh(leaf: Any) -> jax.Array:
        # `init` itself compiles for minutes where the network is deep.
        values = rng.normal(0, 0.05, leaf.shape) if leaf.ndim > 1 else np.ones(leaf.shape)
        return jnp.asarray(values, leaf.dtype)

    init = functools.partial(module.init, train=False)
    variables = jax.tree.map(fresh, dict(jax.eval_shape(init, jax.random.key(0), example)))
    return module, variables, jax.device_put(image, jax.devices()[0])


def measure_onnx(values: Mapping[str, Any], *, network: str, repeats: int) -> Row:
    """The forward pass of a network of a stage in ONNX Runtime on CPU; {failed} without it."""
    try:
        import onnxruntime
    except ImportError:
        return {"failed": "ONNX Runtime is not installed: pip install 'jax2onnx==0.13.0'"}

    module, variables, image = _drawn(values, network)
    example = jax.ShapeDtypeStruct(image.shape, image.dtype)
    try:
        model = program_export.to_onnx(
            lambda x: module.apply(variables, x, train=False),
            example,
            input_name="image",
            output_names=["output"],
        )
    except UserError as error:
        return {"failed": str(error)}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(cores.usable())
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    read = {"image": np.asarray(image)}
    spent = timing.timed(lambda: session.run(None, read), repeats)
    found = {"batch_size": image.shape[0], "side": image.shape[1]}
    return found | {f"forward_{key}": spent[key] for key in ("seconds", "cpu_seconds")}


def _row(shape: Any, parameters: int, spent: Row, forward: Row, peak: int) -> Row:
    rates = {"images_per_second": shape[0] / spent["seconds"], "peak_bytes": peak}
    rates |= {f"forward_{key}": forward[key] for key in ("seconds", "cpu_seconds")}
    return {"batch_size": shape[0], "side": shape[1], "parameters": parameters, **spent, **rates}


def measure_torch(network: Mapping[str, Any], *, form: str, repeats: int) -> Row:
    """A network of `described` in PyTorch, in one of `FORMS`; {failed} where that cannot be."""
    import torch

    from launch.benchmark import torch_networks

    torch.set_num_threads(len(cores.usable()))
    torch.backends.cudnn.benchmark = True
    count, *shape = network["shape"]
    device = _DEVICES[network["platform"]]
    layout = torch.contiguous_format if form == "eager" else torch.channels_last
    module = torch_networks.build(network["kind"], network["fields"], shape)
    module = module.to(device, memory_format=layout)
    called = torch.compile(module) if form.startswith("compiled") else module
    optimizer = torch.optim.AdamW(module.parameters(), fused=True)
    image = torch.rand(count, shape[2], *shape[:2], device=device).to(memory_format=layout)
    bfloat16 = network["dtype"] == "bfloat16"

    def run(train: bool) -> None:
        module.train(train)
        with torch.set_grad_enabled(train), torch.autocast(device, torch.bfloat16, bfloat16):
            y = called(image)
            if train:
                loss = y.square().mean()
        if train:
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    try:
        # Compiles before the clock starts, which does not repeat a first run of half a minute.
        run(False)
        with timing.Clock() as first:
            run(True)
        forward = timing.timed(lambda: run(False), repeats)
        spent = timing.timed(lambda: run(True), repeats, patience=_PATIENCE)
    except Exception as error:  # compilers and devices raise anything
        return {"failed": f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"}
    if form.startswith("compiled"):
        spent["compile_seconds"] = first.spent["seconds"] - spent["seconds"]
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else timing.process_peak_bytes()
    parameters = sum(parameter.numel() for parameter in module.parameters())
    return _row(network["shape"], parameters, spent, forward, peak)
