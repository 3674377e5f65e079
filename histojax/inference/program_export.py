"""A finished run as a program in a file: its networks with their weights, for use without histojax.

The program takes one image, uint8 (1, H, W, 3), RGB, of any size whose sides are multiples of its
stride. It gives "sr", uint8 (1, r H, r W, 3), of a run that enhances, and a map by head, float32
(1, r H, r W, 1) in [0, 1], of a run that finds nuclei.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import pathlib
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax import export as jax_export

from histojax import __version__, files
from histojax.errors import UserError
from histojax.inference import labeling, model_export, tiled
from histojax.nuclei import postprocessing
from histojax.runs import workdirs
from histojax.stages.base import segments, synthesizes

# In the zip of a StableHLO program: what jax.export.deserialize reads, and what the file says.
PROGRAM, METADATA = "program.jax", "metadata.json"
_PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
# Parts of jax2onnx that carry nothing of these networks: the first take most of the time of its
# import, and under the last, which makes an array of jnp.shape, flax.linen.Conv cannot be traced.
_UNUSED = ("examples", "equinox", "dm_pix", "flax", "jax.numpy.shape")
_FLOATS = {"sr": "levels"}
Outputs = dict[str, Any]


def export(workdir: pathlib.Path, path: pathlib.Path, about: Mapping[str, str], kind: str) -> str:
    """Writes the best checkpoint of a finished run as a program in float32; returns its licence.

    Args:
        workdir, about: as of `model_export.export`.
        path: of the file.
        kind: "stablehlo", a zip of PROGRAM and METADATA; or "onnx", metadata_props inside.

    Raises:
        UserError: nothing is trained there, the run makes tissue or recolors what it reads, its
            licence is left out, ONNX is not installed or does not carry the network.
        DiskError: the disk refuses.
    """
    run = workdirs.load(workdir)
    name = workdirs.name_of(workdir)
    if synthesizes(run.stage):
        raise UserError(f"{name} makes tissue for a mask, and a program reads an image: give zoo")
    stage: Any = run.stage
    used = {
        n: stage.networks[n].clone(dtype=jnp.float32) for n in workdirs.used_networks(run.state)
    }
    run = dataclasses.replace(run, stage=dataclasses.replace(stage, dtype=jnp.float32, **used))
    network = tiled.predictor(run)
    if network.matching is not None:
        raise UserError(
            f"{name} normalises the stain of each image by a fit of its own, which no program "
            f"holds (data.stain.method={run.config.data.stain.method!r}): give zoo"
        )
    facts = metadata(run, network, about)
    with files.atomic_path(path) as part:
        if kind == "onnx":
            _write_onnx(part, run, network.stride, facts)
        else:
            program = jax_export.export(
                jax.jit(lambda image: run.stage.predict(run.state, image)), platforms=_PLATFORMS
            )(_free(network.stride))
            with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr(PROGRAM, program.serialize())
                archive.writestr(METADATA, json.dumps(facts, indent=1))
    return facts["licence"]


def metadata(
    run: workdirs.Run, network: tiled.TiledNetwork, about: Mapping[str, str]
) -> dict[str, Any]:
    """What a program's file says of it; `halo` and `stride` are in px of the input."""
    used = {n: run.state.variables(n, averaged=True) for n in workdirs.used_networks(run.state)}
    facts = {
        **model_export.about_of(run, about),
        **{name: run.meta[name] for name in ("mpp_in", "mpp_out")},
        **{name: getattr(network, name) for name in ("scale", "stride", "halo")},
        "sha256": digest(used),
    }
    if segments(run.stage):
        parameters = labeling.parameters_of(run)
        facts |= {
            "threshold": labeling.threshold(run, parameters),
            "largest_area": labeling.largest_area(run),
            "postprocessing": {"kind": "components", **labeling.component_sizes(run.config)},
        }
        if parameters is not None:
            values = dataclasses.asdict(parameters)
            facts["postprocessing"] = {"kind": postprocessing.kind_of(parameters), **values}
    return facts


def digest(variables: Any) -> str:
    """SHA-256 of all names and float32 arrays of a tree, in the order of the names."""
    found = hashlib.sha256()
    for name, array in sorted(traverse_util.flatten_dict(variables, sep="/").items()):
        found.update(name.encode() + np.asarray(array, np.float32).tobytes())
    return found.hexdigest()


def _free(stride: int) -> jax.ShapeDtypeStruct:
    h, w = jax_export.symbolic_shape(f"{stride}*h, {stride}*w")
    return jax.ShapeDtypeStruct((1, h, w, 3), jnp.uint8)


def _write_onnx(
    path: pathlib.Path, run: workdirs.Run, stride: int, facts: Mapping[str, Any]
) -> None:
    try:
        with _quiet():
            import jax2onnx  # noqa: F401 (what is missing is said before the work)
        import onnx
        import onnxruntime
    except ImportError as error:
        raise UserError(
            "ONNX needs jax2onnx, which is not installed: run pip install 'jax2onnx==0.13.0', "
            "or give --format=stablehlo"
        ) from error

    # jax2onnx 0.13 finds a free side only where it is a symbol, so the program reads strides. It
    # drops an output uint8 that is read on as floats, so levels come out as floats.
    def network(strides: jax.Array) -> Outputs:
        _, h, _, w, _ = strides.shape
        image = strides.reshape(1, stride * h, stride * w, 3)
        made = run.stage.predict(run.state, image)
        return {name: array.astype(jnp.float32) for name, array in made.items()}

    made = model_export.probe(run)
    image = made.pop("input")
    h, w = jax_export.symbolic_shape("h, w")
    example = jax.ShapeDtypeStruct((1, h, stride, w, 3 * stride), jnp.uint8)
    names = [_FLOATS.get(name, name) for name in sorted(made)]
    model = to_onnx(network, example, input_name="strides", output_names=names)
    _read_images(onnx, model.graph, stride)
    _write_images(onnx, model.graph)
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in facts.items()}
    onnx.helper.set_model_props(model, texts)
    model.producer_name, model.producer_version = "histojax", __version__
    data = model.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    order = [output.name for output in session.get_outputs()]
    found = dict(zip(order, session.run(None, {"image": image}), strict=True))
    if not model_export.alike(found, made):
        raise UserError("ONNX Runtime gives other results than JAX: give --format=stablehlo")
    path.write_bytes(data)


def to_onnx(
    function: Callable[[jax.Array], Any],
    example: jax.ShapeDtypeStruct,
    *,
    input_name: str,
    output_names: Sequence[str],
) -> Any:
    """An onnx.ModelProto of a function of one array; UserError: jax2onnx does not carry it."""
    names = dict(input_names=[input_name], output_names=[*output_names])
    with _quiet():
        import jax2onnx

        for name in _UNUSED:
            sys.modules.setdefault(f"jax2onnx.plugins.{name}", None)  # type: ignore[arg-type]
        try:
            return jax2onnx.to_onnx(function, [example], **names)
        except (NotImplementedError, TypeError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise UserError(
                f"jax2onnx does not carry this network ({reason}): give --format=stablehlo"
            ) from error


def _read_images(onnx: Any, graph: Any, stride: int) -> None:
    """Lets a graph that reads strides, (1, h, stride, w, 3 stride), read images."""

    def constant(name: str, values: list[int]) -> str:
        graph.initializer.append(onnx.numpy_helper.from_array(np.array(values), name))
        return name

    make, sides = onnx.helper.make_node, [1, 1, stride, 1, stride]
    nodes = [
        make("Shape", ["image"], ["image_shape"]),
        make("Gather", ["image_shape", constant("axes", [0, 1, 0, 2, 3])], ["image_sides"]),
        make("Div", ["image_sides", constant("sides", [1, stride, 1, stride, 1])], ["counts"]),
        make("Mul", ["counts", constant("in_strides", sides)], ["strides_shape"]),
        make("Reshape", ["image", "strides_shape"], ["strides"]),
    ]
    for index, node in enumerate(nodes):
        graph.node.insert(index, node)
    shape = [1, "height", "width", 3]
    image = onnx.helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, shape)
    graph.input[0].CopyFrom(image)


def _write_images(onnx: Any, graph: Any) -> None:
    """Names the sides of a graph's outputs, and casts the enhanced image to uint8."""
    for output in graph.output:
        _, rows, columns, _ = output.type.tensor_type.shape.dim
        rows.dim_param, columns.dim_param = "out_height", "out_width"
        if output.name == _FLOATS["sr"]:
            cast = onnx.helper.make_node("Cast", [output.name], ["sr"], to=onnx.TensorProto.UINT8)
            graph.node.append(cast)
            output.name, output.type.tensor_type.elem_type = "sr", onnx.TensorProto.UINT8


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without jax2onnx's warnings of what it does not need."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
