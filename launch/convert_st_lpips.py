"""Converts the weights of ST-LPIPS from PyTorch's file in the package stlpips-pytorch 0.0.2.

    pip download --no-deps stlpips-pytorch==0.0.2 && unzip stlpips_pytorch-0.0.2-py3-none-any.whl
    python -m launch.convert_st_lpips --input=stlpips_pytorch/weights/vST0.0/alex_shift_tolerant.pth

writes third_party/st_lpips/alexnet.safetensors, as the package's numbers are. Only this command
needs PyTorch.
"""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from absl import flags
from safetensors.numpy import save_file

from histojax import cli, files
from histojax.models import st_lpips

_INPUT = flags.DEFINE_string("input", None, "PyTorch's file. Example: alex_shift_tolerant.pth")
_OUTPUT = flags.DEFINE_string(
    "output",
    "third_party/st_lpips/alexnet.safetensors",
    "The file to write. Example: st_lpips.safetensors",
)


def convert(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The published names and layout as ours: params/LAYER/kernel, .../bias and heads/LAYER.

    Kernels, (C_out, C_in, kh, kw) in the order of the layers, become (kh, kw, C_in, C_out), and
    the heads "linN.model.1.weight", (1, C, 1, 1), become (C,).
    """
    kernels = [key for key in arrays if key.startswith("net.") and key.endswith(".weight")]
    found = {}
    for index, (layer, key) in enumerate(zip(st_lpips.LAYERS, kernels, strict=True)):
        found[f"params/{layer}/kernel"] = arrays[key].transpose(2, 3, 1, 0)
        found[f"params/{layer}/bias"] = arrays[key.replace("weight", "bias")]
        found[f"heads/{layer}"] = arrays[f"lin{index}.model.1.weight"].ravel()
    return {key: np.ascontiguousarray(array) for key, array in found.items()}


def main(argv: Sequence[str]) -> None:
    """Converts and writes."""
    del argv
    import torch

    state = torch.load(str(_INPUT.value), weights_only=True, map_location="cpu")
    with files.atomic_path(pathlib.Path(_OUTPUT.value)) as path:
        save_file(convert({key: tensor.numpy() for key, tensor in state.items()}), path)


if __name__ == "__main__":
    flags.mark_flags_as_required(["input"])
    cli.run(main)
