"""The content loss of a generator: its image against the real one, in pixels and in features."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from histojax.checks import check, one_of
from histojax.components import pretrained
from histojax.errors import UserError
from histojax.losses import perceptual, pixel

Tree = Any
Layers = tuple[str, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureNetwork:
    """A frozen network in whose layers images are compared.

    Attributes:
        name: "segmenter", or a name of `pretrained.FEATURE_NETWORKS`.
        features: (variables, images (B, H, W, 3) in [0, 1], layer names) -> {layer: features}.
        variables: what `features` reads; a training state carries them as `frozen["features"]`.
        layers: every layer that can be compared, shallow first.
        stride: px that the sides of images are multiples of.
    """

    name: str
    features: Callable[[Tree, jax.Array, Layers], Any]
    variables: Tree
    layers: Layers
    stride: int = 16


def segmenter_features(segmenter: Any, variables: Tree) -> FeatureNetwork:
    """The encoder of a segmentation network as a feature network."""

    def features(variables: Tree, images: jax.Array, layers: Layers) -> dict[str, jax.Array]:
        maps = segmenter.apply(variables, images, train=False, method="encode")
        return {layer: maps[layer] for layer in layers}

    layers = tuple(f"level{n}" for n in range(segmenter.depth + 1))
    return FeatureNetwork("segmenter", features, variables, layers, segmenter.stride)


def pretrained_features(
    name: str, *, path: str = "", sha256: str = "", path_field: str = "loss.features.path"
) -> FeatureNetwork:
    """A pretrained network; arguments and UserError: `pretrained.load_feature_network`."""
    network, variables = pretrained.load_feature_network(name, path, sha256, path_field=path_field)
    return FeatureNetwork(name, network.apply, variables, pretrained.FEATURE_NETWORKS[name].taps)


@dataclasses.dataclass(frozen=True, eq=False)
class Content:
    """Pixel and feature terms of losses.pixel and losses.perceptual, with their weights.

    `network` is where features are compared, None: nowhere; `layers` has the weight of each layer.
    """

    pixel: Callable[..., jax.Array]
    pixel_weight: float
    network: FeatureNetwork | None = None
    layers: Mapping[str, float] = dataclasses.field(default_factory=dict)
    feature_kind: str = "l1"
    feature_weight: float = 0.0

    @property
    def frozen(self) -> dict[str, Tree]:
        """What a training state has to carry for `loss`."""
        return {} if self.network is None else {"features": self.network.variables}

    def loss(
        self, frozen: Mapping[str, Tree], sr: jax.Array, hr: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """(weighted loss, its terms) of sr against hr, both (B, H, W, 3) in [0, 1]."""
        per_pixel = jnp.mean(self.pixel(prediction=sr, target=hr))
        terms = {"loss_pixel": per_pixel}
        total = self.pixel_weight * per_pixel
        if self.network is not None:
            names = tuple(self.layers)
            per_image = perceptual.feature_loss(
                prediction=self.network.features(frozen["features"], sr, names),
                target=self.network.features(frozen["features"], hr, names),
                weights=self.layers,
                kind=self.feature_kind,
            )
            terms["loss_feature"] = jnp.mean(per_image)
            total = total + self.feature_weight * terms["loss_feature"]
        return total, terms


def build_content(config: ConfigDict, segmenter: Any, initial: Mapping[str, Tree]) -> Content:
    """Content from the config group `loss`: pixel, pixel_weight, and features where weighted.

    Raises:
        UserError: an unknown kind, network or layer, or network "segmenter" without a start.
    """
    check(config, {"pixel": one_of(pixel.KINDS)}, "loss.")
    kind = pixel.KINDS[config.pixel]
    group = config.get("features")  # not of generator.py
    if group is None or group.weight == 0:
        return Content(kind, config.pixel_weight)
    check(group, {"kind": one_of(perceptual.KINDS)}, "loss.features.")
    if group.network != "segmenter":
        network = pretrained_features(group.network, path=group.path, sha256=group.sha256)
    elif segmenter is None or "segmenter" not in initial:
        raise UserError(
            "loss.features.network='segmenter' needs init_from.segmenter, the segmentation run "
            f"whose encoder is used; name one, or choose {' or '.join(pretrained.FEATURE_NETWORKS)}"
        )
    else:
        network = segmenter_features(segmenter, initial["segmenter"])
    layers = dict(group.layers) or {layer: 1.0 for layer in network.layers}
    unknown = sorted(set(layers) - set(network.layers))
    if unknown:
        raise UserError(
            f"loss.features.layers has {unknown[0]!r}, which {network.name} does not; its layers "
            f"are {', '.join(network.layers)}"
        )
    return Content(kind, config.pixel_weight, network, layers, group.kind, group.weight)
