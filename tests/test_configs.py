import dataclasses
import functools

import jax
import numpy as np
import pytest

from configs import base
from configs.ablations import use_net as ablation
from histojax.components import optimizers
from histojax.config import differences, from_values, to_values
from histojax.data.augmentation import Augmentation
from histojax.data.degradation import Degradation
from histojax.errors import UserError
from histojax.experiments import chain, check
from histojax.nuclei.usenet import USENetParameters
from histojax.runs import workdirs
from histojax.stages import STAGES, build_stage, segmentation
from histojax.stages.segmentation import build_segmenter
from histojax.training import loop
from tests import tiny

NAMES = sorted(tiny.CONFIGS)


@functools.cache
def state_of(name, size):
    """Shapes of a config's first state."""
    config = tiny.CONFIGS[name].get_config(size)
    stage = build_stage(config, {})
    return jax.eval_shape(lambda: workdirs.fresh_state(stage, config))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", base.SIZES)
def test_every_size_can_be_written_and_read_back(name, size):
    config = tiny.CONFIGS[name].get_config(size)
    values = to_values(config)
    assert to_values(from_values(values)) == values
    for stage in chain.stages_of(config):
        assert stage.stage in STAGES
        loop.check(stage, devices=1)
        assert stage.data.crop % stage.data.scale == 0
        assert stage.data.source == "synthetic"


@pytest.mark.parametrize("name", ["generator", "segmentation", "srresnet", "unet", "use_net"])
@pytest.mark.parametrize("size", base.SIZES)
def test_every_size_makes_its_networks(name, size):
    config = tiny.CONFIGS[name].get_config(size)
    assert set(state_of(name, size).params) == set(build_stage(config, {}).networks)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", base.SIZES)
def test_configs_name_every_field_of_what_they_build(name, size):
    config = tiny.CONFIGS[name].get_config(size)
    config.get("loss", {}).get("features", {}).update(weight=0.0)  # no VGG19 to be had here
    # What the stage itself sets.
    fixed = {"parent", "name", "dtype", "bn_axis_name", "scale"}
    for network, module in build_stage(config, {}).networks.items():
        fields = {field.name for field in dataclasses.fields(module)}
        # A pyramid's networks are numbered by their scale; its labels are those of the data, and
        # whether generators add nothing at first follows from what they start from.
        group = config[network.partition("_")[0]]
        own = {"labels", "adds_nothing"} if config.stage == "pyramid" else set()
        assert set(group) - {"kind"} == fields - fixed - own
    fields = {field.name for field in dataclasses.fields(Augmentation)}
    assert set(config.data.augmentation) == fields
    fields = {field.name for field in dataclasses.fields(Degradation)}
    assert set(config.data.degradation) == fields - {"scale"}
    own = {"name": config.data.degradation.name}
    if config.stage == "joint" and size != "paper":
        own = base.REAL_FIELDS
    expected = Degradation.from_config({**base.degradation(), **own}, 4)
    assert Degradation.from_config(config.data.degradation, 4) == expected


def test_fields_common_to_all_scales_are_set_once():
    config = tiny.CONFIGS["pyramid"].get_config("gpu")
    config.pyramid.noise, config.loss.added_weight = 0.25, 2.0
    stages = chain.stages_of(config)
    assert len(stages) == 4
    assert all(stage.pyramid.noise == 0.25 for stage in stages)
    assert all(stage.loss.added_weight == 2.0 for stage in stages)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", base.SIZES)
def test_crops_follow_the_scale_until_they_are_set(name, size):
    if size == "paper" and name in ("srgan_srresnet", "unet", "use_net"):
        pytest.skip("as published, at one size")
    if name == "pyramid":
        pytest.skip("its crop is the highest of its scales")
    config = tiny.CONFIGS[name].get_config(size)
    four = [stage.data.crop for stage in chain.stages_of(config)]
    for scale in (2, 3, 8):
        config.data.scale = scale
        for stage, crop in zip(chain.stages_of(config), four, strict=True):
            loop.check(stage, devices=1)
            stride = 16
            if "segmenter" in stage:
                stride = build_segmenter(stage).stride
                assert stage.data.crop % stride == 0
            assert crop - 3 * max(stride, 16) < stage.data.crop <= crop
            assert scale == 3 or stage.data.crop == crop
    config.data.crop = 24
    config.data.scale = 2
    assert config.data.crop == 24


@pytest.mark.parametrize("name", NAMES)
def test_the_default_is_laptop(name):
    module = tiny.CONFIGS[name]
    default = to_values(module.get_config())
    assert default == to_values(module.get_config("laptop"))
    assert default == to_values(module.get_config(""))


@pytest.mark.faults
@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_size_is_named(name):
    with pytest.raises(ValueError, match="size 'huge' is not known; choose one of smoke, laptop"):
        tiny.CONFIGS[name].get_config("huge")


def test_what_a_chain_shares_is_set_in_one_place():
    config = tiny.CONFIGS["joint"].get_config("smoke")
    config.data.source = "folder:x"
    config.data.degradation.name = "microscope"
    config.seed = 7
    config.lengths.generator = 33
    config.collapse.window = 77
    stages = {stage.name: stage for stage in chain.stages_of(config)}
    for stage in stages.values():
        assert stage.data.source == "folder:x"
        assert stage.data.degradation.name == "microscope"
        assert stage.seed == 7
    assert stages["generator"].steps == 33
    assert stages["srgan"].collapse.window == stages["joint"].collapse.window == 77


def test_only_a_segmentation_stage_may_have_a_teacher():
    config = tiny.config("joint")
    config.data.labelled = 0.5
    config.data.synthetic.train = 4  # of two patients
    own = config.init_from.segmenter
    own.data.unlabelled, own.teacher.weight = "rest", 1.0
    check.rehearse([own])
    config.init_from, config.loss.features.weight = {}, 0.0
    config.data.unlabelled = "rest"
    with pytest.raises(UserError, match=r"joint is of stage 'joint', which learns from labelled"):
        check.rehearse([config])


@pytest.mark.parametrize("size", base.SIZES)
def test_stages_of_a_chain_have_one_generator_and_one_segmenter(size):
    stages = chain.stages_of(tiny.CONFIGS["joint"].get_config(size))
    for group in ("generator", "segmenter"):
        found = [to_values(stage[group]) for stage in stages if group in stage]
        assert len(found) >= 3
        assert all(one == found[0] for one in found)


@pytest.mark.parametrize("size", ["smoke", "laptop", "gpu"])
@pytest.mark.parametrize(
    ("baseline", "ours", "allowed"),
    [
        ("srresnet", "generator", {"name", "generator"}),
        ("unet", "segmentation", {"name", "segmenter"}),
        (
            "srgan_srresnet",
            "srgan",
            {
                "name",
                "generator",
                "discriminator",
                "loss.adversarial.kind",
                "init_from.generator.name",
                "init_from.generator.generator",
            },
        ),
    ],
)
def test_a_baseline_differs_in_networks_and_losses_alone(baseline, ours, allowed, size):
    old, new = (to_values(tiny.CONFIGS[name].get_config(size)) for name in (ours, baseline))
    # `differences` leaves out how long a run is.
    assert new["steps"] == old["steps"]
    fields = [line.partition(":")[0] for line in differences(old, new)]
    assert fields
    for field in fields:
        assert any(field == name or field.startswith(f"{name}.") for name in allowed), field


def test_laptop_baselines_have_as_many_parameters():
    def count(name):
        return sum(leaf.size for leaf in jax.tree.leaves(state_of(name, "laptop").params))

    assert count("srresnet") == pytest.approx(count("generator"), rel=0.05)
    assert count("unet") == pytest.approx(count("segmentation"), rel=0.05)


def as_coded(crop=256):
    """The SRGAN of 2021 without its feature network, which has to be fetched."""
    config = tiny.CONFIGS["srgan_srresnet"].get_config("paper")
    config.loss.features.weight = 0.0
    config.data.crop = crop
    return config


def test_the_networks_of_2021_have_the_parameters_counted_there():
    config = as_coded()
    stage = build_stage(config, {})
    coded = jax.eval_shape(lambda: workdirs.fresh_state(stage, config)).variables("generator")
    unet = state_of("unet", "paper").variables("segmenter")
    assert sum(leaf.size for leaf in jax.tree.leaves(coded)) == 1_447_747
    assert sum(leaf.size for leaf in jax.tree.leaves(unet)) == 31_032_837


def test_the_settings_of_2021():
    config = tiny.CONFIGS["srgan_srresnet"].get_config("paper")
    assert [stage.name for stage in chain.stages_of(config)] == ["srgan_srresnet"]
    assert config.data.degradation.name == "bilinear"
    assert (config.data.batch_size, config.steps) == (1, 20_000)
    assert (config.loss.pixel_weight, config.loss.features.weight) == (0.0, 1.0)
    assert config.loss.features.layers.to_dict() == {"relu3_3": 1.0}
    assert (config.loss.adversarial.kind, config.loss.adversarial.weight) == ("brier", 1e-3)
    for group in ("optimizer", "discriminator_optimizer"):
        rate = optimizers.learning_rate(config[group], config.steps, group)
        assert float(rate(0)) == float(rate(19_999)) == pytest.approx(2e-4)
        assert config[group].b1 == 0.5


def test_the_discriminator_of_2021_is_fixed_at_256_pixels():
    config = as_coded(crop=128)
    stage = build_stage(config, {})
    with pytest.raises(UserError, match=r"128 x 128 pixels does not fit .* of size=256") as error:
        jax.eval_shape(lambda: workdirs.fresh_state(stage, config))
    assert "\n" not in str(error.value)


def test_the_baseline_s_discriminator_follows_the_crop():
    config = tiny.CONFIGS["srgan_srresnet"].get_config("laptop")
    config.data.crop = 96
    assert config.discriminator.size == 96


def count_of(config):
    stage = build_stage(config, {})
    state = jax.eval_shape(lambda: workdirs.fresh_state(stage, config))
    return sum(leaf.size for leaf in jax.tree.leaves(state.params))


@pytest.mark.parametrize("size", ["paper", "paper_code"])
def test_use_net_is_as_published(size):
    config = tiny.CONFIGS["use_net"].get_config(size)
    assert count_of(config) == 35_037_186
    config.segmenter.se_bias = True
    assert count_of(config) == 35_053_234
    assert config.segmenter.resizing == "align_corners"
    stage = build_stage(config, {})
    assert stage.fields == ("hr", "mask", "marker")
    assert stage.instances == USENetParameters()
    assert (config.data.batch_size, config.data.crop) == (8, 992)
    coded = size == "paper_code"
    assert config.loss.squared_dice == (not coded)
    # 60 epochs as published, 100 as coded, of 4,050 / 8 steps.
    assert config.steps == 506 * (100 if coded else 60)
    rate = optimizers.learning_rate(config.optimizer, config.steps, "optimizer")
    first = 506 * (29 if coded else 30)
    found = [float(rate(step)) for step in (0, first - 1, first + 1)]
    assert found == pytest.approx([1e-4, 1e-4, 1e-5])
    assert float(rate(config.steps)) == pytest.approx(1e-7 if coded else 1e-5)
    augmentation = Augmentation.from_config(config.data.augmentation)
    assert augmentation.flips
    assert augmentation.vertical_flips == (not coded)
    assert config.data.targets.legacy == coded


def test_coded_dice_is_that_of_tversky():
    """.5 BCE + .5 (1 - (2 TP + 2) / (2 TP + FP + FN + 2)), soft counts of one image and map."""
    config = tiny.CONFIGS["use_net"].get_config("paper_code")
    loss = segmentation.build_mask_loss(config.loss)
    odds = np.asarray([3.0, 3.0, 1 / 3, 1 / 3], np.float32)  # of 0.75 and 0.25
    logits = np.log(odds).reshape(1, 2, 2, 1)
    mask = np.asarray([1.0, 0.0, 1.0, 0.0], np.float32).reshape(1, 2, 2, 1)
    hit, extra, missed = 0.75 + 0.25, 0.75 + 0.25, 0.25 + 0.75
    dice = 1 - (2 * hit + 2) / (2 * hit + extra + missed + 2)
    bce = -(np.log(0.75) * 2 + np.log(0.25) * 2) / 4
    assert float(loss(logits, mask)) == pytest.approx(0.5 * bce + 0.5 * dice, rel=1e-5)


@pytest.mark.parametrize("name", list(ablation.EXPERIMENTS))
def test_each_experiment_differs_from_the_best_by_its_row(name):
    best, config = ablation.get_config("exp9"), ablation.get_config(name)
    stain, images, encoder, dice, marker = ablation.EXPERIMENTS[name]
    # `differences` leaves out how long a run is.
    changed = {line.partition(":")[0] for line in differences(to_values(best), to_values(config))}
    expected = {"name"} if name != "exp9" else set()
    expected |= {"data.stain.method"} if stain == "none" else set()
    expected |= {"segmenter.encoder"} if encoder != "se_resnet50" else set()
    expected |= {"loss.bce_weight", "loss.dice_weight"} if not dice else set()
    expected |= {"optimizer.drop_at"} if images == 1_500 else set()
    if not marker:
        expected |= {"segmenter.heads", "instances.marker_from_mask"}
    expected |= {"data.targets.marker"} if marker == "center" else set()
    assert changed == expected
    assert config.steps == best.steps // (3 if images == 1_500 else 1)
    small = ablation.get_config(f"{name}-smoke")
    stage = build_stage(small, {})
    assert stage.instances is not None
    assert small.segmenter.encoder == encoder


def test_no_two_experiments_are_the_same_run():
    configs = [to_values(ablation.get_config(f"{name}-laptop")) for name in ablation.EXPERIMENTS]
    for config in configs:
        del config["name"]
    assert all(configs.count(config) == 1 for config in configs)


@pytest.mark.faults
def test_an_unknown_experiment_is_named():
    with pytest.raises(ValueError, match="experiment 'exp10' is not known; choose one of exp1"):
        ablation.get_config("exp10")
    with pytest.raises(ValueError, match=r"size 'huge' is not known; .* paper_code"):
        ablation.get_config("exp1-huge")


def test_a_baseline_s_chain_is_rehearsed():
    check.rehearse(chain.stages_of(tiny.config("srgan_srresnet")))


def test_a_size_changes_no_choice_of_data():
    for name in NAMES:
        sources = {tiny.CONFIGS[name].get_config(size).data.source for size in base.SIZES}
        assert sources == {"synthetic"}


@pytest.mark.parametrize("name", ["joint", "srgan_srresnet"])
def test_a_network_set_once_is_set_in_the_whole_chain(name):
    config = tiny.CONFIGS[name].get_config("laptop")
    config.generator.blocks = 12
    config.segmenter.features = 32
    for stage in chain.stages_of(config):
        assert stage.get("generator", {}).get("blocks", 12) == 12
        assert stage.get("segmenter", {}).get("features", 32) == 32
