import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from histojax.components import networks
from histojax.errors import UserError
from histojax.models.segmenters.inception_unet import InceptionUNet
from histojax.models.segmenters.unet import UNet


def test_a_module_has_the_fields_of_its_group_and_no_others():
    def made(**fields):
        config = ConfigDict({"precision": "float32", "segmenter": fields})
        return networks.module(InceptionUNet, config, "segmenter")

    assert made(depth=2, features=8) == InceptionUNet(depth=2, features=8)
    with pytest.raises(UserError, match=r"segmenter\.deep is not a field of InceptionUNet; its"):
        made(deep=2)


def test_a_group_may_name_the_kind_of_its_network():
    kinds = {"inception_unet": InceptionUNet, "unet": UNet}
    fields = {"depth": 1, "features": 4}

    def made(**more):
        config = ConfigDict({"precision": "float32", "segmenter": {**fields, **more}})
        return networks.network(kinds, config, "segmenter")

    assert made(kind="inception_unet") == InceptionUNet(depth=1, features=4)
    with pytest.raises(UserError, match=r"segmenter\.kind=None is not known; choose one of incep"):
        made()
    assert made(kind="unet") == UNet(depth=1, features=4)
    with pytest.raises(UserError, match=r"segmenter\.kind='vit' is not known; choose one of incep"):
        made(kind="vit")
    with pytest.raises(UserError, match=r"segmenter\.five is not a field of UNet; its fields are"):
        made(kind="unet", five="5x5")


def test_precision_is_named_or_follows_the_backend():
    assert networks.compute_dtype(ConfigDict({"precision": "auto"})) == jnp.float32
    assert networks.compute_dtype(ConfigDict({"precision": "bfloat16"})) == jnp.bfloat16
    with pytest.raises(UserError, match="precision='half' is not known"):
        networks.compute_dtype(ConfigDict({"precision": "half"}))
