import dataclasses

import jax
import pytest

from configs import base
from histojax import chain, config, runs, train
from histojax.data.augmentation import Augmentation
from histojax.stages import STAGES, build_stage
from tests import tiny

NAMES = sorted(tiny.CONFIGS)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", base.SIZES)
def test_every_size_can_be_written_and_read_back(name, size):
    settings = tiny.CONFIGS[name].get_config(size)
    values = config.resolved(settings)
    assert config.resolved(config.restored(values)) == values
    for stage in chain.stages_of(settings):
        assert stage.stage in STAGES
        train.check(stage, devices=1)
        assert stage.data.crop % stage.data.scale == 0
        assert stage.data.source == "synthetic"


@pytest.mark.parametrize("name", ["generator", "segmentation"])
@pytest.mark.parametrize("size", base.SIZES)
def test_every_size_makes_its_networks(name, size):
    settings = tiny.CONFIGS[name].get_config(size)
    stage = build_stage(settings, {})
    state = jax.eval_shape(lambda: runs.fresh_state(stage, settings))
    assert set(state.params) == set(stage.networks)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", base.SIZES)
def test_every_field_of_a_network_and_of_augmentation_can_be_set(name, size):
    settings = tiny.CONFIGS[name].get_config(size)
    settings.get("loss", {}).get("features", {}).update(weight=0.0)  # no VGG19 to be had here
    # What the stage itself sets.
    fixed = {"parent", "name", "dtype", "bn_axis_name", "scale", "outputs"}
    for network, module in build_stage(settings, {}).networks.items():
        fields = {field.name for field in dataclasses.fields(module)}
        assert set(settings[network]) == fields - fixed
    fields = {field.name for field in dataclasses.fields(Augmentation)}
    assert set(settings.data.augmentation) == fields


@pytest.mark.parametrize("name", NAMES)
def test_the_default_is_laptop(name):
    module = tiny.CONFIGS[name]
    default = config.resolved(module.get_config())
    assert default == config.resolved(module.get_config("laptop"))
    assert default == config.resolved(module.get_config(""))


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_size_is_named(name):
    with pytest.raises(ValueError, match="size 'huge' is not known; choose one of smoke, laptop"):
        tiny.CONFIGS[name].get_config("huge")


def test_what_a_chain_shares_is_set_in_one_place():
    settings = tiny.CONFIGS["joint"].get_config("smoke")
    settings.data.source = "folder:x"
    settings.data.degradation.name = "microscope"
    settings.seed = 7
    settings.lengths.generator = 33
    stages = {stage.name: stage for stage in chain.stages_of(settings)}
    for stage in stages.values():
        assert stage.data.source == "folder:x"
        assert stage.data.degradation.name == "microscope"
        assert stage.seed == 7
    assert stages["generator"].steps == 33


@pytest.mark.parametrize("size", base.SIZES)
def test_stages_of_a_chain_have_one_generator_and_one_segmenter(size):
    stages = chain.stages_of(tiny.CONFIGS["joint"].get_config(size))
    for group in ("generator", "segmenter"):
        found = [config.resolved(stage[group]) for stage in stages if group in stage]
        assert len(found) >= 3
        assert all(one == found[0] for one in found)


def test_a_size_changes_no_choice_of_data():
    for name in NAMES:
        sources = {tiny.CONFIGS[name].get_config(size).data.source for size in base.SIZES}
        assert sources == {"synthetic"}


def test_a_network_set_once_is_set_in_the_whole_chain():
    settings = tiny.CONFIGS["joint"].get_config("laptop")
    settings.generator.blocks = 12
    settings.segmenter.features = 32
    for stage in chain.stages_of(settings):
        assert stage.get("generator", {}).get("blocks", 12) == 12
        assert stage.get("segmenter", {}).get("features", 32) == 32
