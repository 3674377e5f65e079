import jax
import jax.numpy as jnp
import numpy as np
import pytest

from histojax.components import mean_teacher
from histojax.errors import UserError
from histojax.training import loop
from tests import tiny


def settings(name="segmentation", **changes):
    """A tiny config with a teacher."""
    found = tiny.config(name)
    found.data.update(labelled=0.25, unlabelled="rest")
    if "teacher" in found:
        found.teacher.weight = 1.0
    found.update_from_flattened_dict(changes)
    return found


def test_the_weight_rises_like_half_a_bell():
    for step, wanted in ((0, np.exp(-5)), (5, np.exp(-1.25)), (10, 1.0), (99, 1.0)):
        assert float(mean_teacher.ramp(jnp.int32(step), 10)) == pytest.approx(wanted, rel=1e-6)
    assert float(mean_teacher.ramp(jnp.int32(0), 0)) == 1.0
    built = mean_teacher.build_teacher(settings(**{"steps": 40, "teacher.ramp": 0.25}))
    assert built == mean_teacher.Teacher(weight=1.0, noise=0.1, limit=0.2, ramp_steps=10)
    doubled = mean_teacher.Teacher(weight=2.0, noise=0.1, limit=0.2, ramp_steps=10)
    assert float(doubled.weight_at(jnp.int32(5))) == pytest.approx(2 * np.exp(-1.25), rel=1e-6)


def test_noise_is_normal_and_clipped_and_another_for_each_key():
    own = mean_teacher.Teacher(weight=1.0, noise=0.1, limit=0.2, ramp_steps=0)
    image = jnp.full((2, 64, 64, 3), 0.5)
    noise = np.asarray(own.noisy(image, jax.random.key(0)) - image)
    assert np.abs(noise).max() == pytest.approx(0.2, abs=1e-6)
    assert np.mean(np.abs(noise) > 0.1999) == pytest.approx(0.0455, abs=0.005)  # beyond 2 sigma
    assert noise.mean() == pytest.approx(0.0, abs=0.003)
    assert np.quantile(noise, 0.8413) == pytest.approx(0.1, abs=0.005)  # 1 sigma
    assert not np.array_equal(noise, own.noisy(image, jax.random.key(1)) - image)
    silent = mean_teacher.Teacher(weight=1.0, noise=0.0, limit=0.2, ramp_steps=0)
    np.testing.assert_array_equal(silent.noisy(image, jax.random.key(0)), image)


def test_consistency_compares_probabilities():
    logits, taught = jnp.zeros((1, 2, 2, 1)), jnp.full((1, 2, 2, 1), np.log(3.0))
    # 1/2 against 3/4, everywhere.
    assert float(mean_teacher.consistency(logits, taught)) == pytest.approx(1 / 16, rel=1e-6)
    assert float(mean_teacher.consistency(taught, taught)) == 0.0
    own, other = jax.grad(mean_teacher.consistency, argnums=(0, 1))(logits, taught)
    # d/dx (s(x) - 3/4)^2 = 2 (1/2 - 3/4) 1/4 in each of four pixels.
    np.testing.assert_allclose(own, np.full((1, 2, 2, 1), -1 / 32), rtol=1e-6)
    np.testing.assert_array_equal(other, np.zeros_like(other))


def test_a_mean_is_of_labelled_images_alone():
    values = jnp.asarray([1.0, 2.0, 4.0, 8.0])
    labelled = np.zeros((4, 2, 2), np.uint8)
    assert float(mean_teacher.mean_of_labelled(values, labelled)) == 0.0
    labelled[1] = 1
    labelled[2, 0, 1] = 1  # the rest of the crop lies outside of its image
    assert float(mean_teacher.mean_of_labelled(values, labelled)) == 3.0


def test_devices_average_to_the_mean_of_the_whole_batch():
    values = jnp.asarray([1.0, 2.0, 4.0, 8.0])
    labelled = np.asarray([1, 1, 1, 0], np.uint8)[:, None, None]
    parts = jax.vmap(
        lambda v, told: mean_teacher.mean_of_labelled(v, told, "data"), axis_name="data"
    )(values.reshape(2, 2), labelled.reshape(2, 2, 1, 1))
    assert float(parts.mean()) == pytest.approx(7 / 3, rel=1e-6)


def test_without_a_weight_there_is_no_teacher():
    assert mean_teacher.build_teacher(tiny.config("segmentation")) is None
    assert mean_teacher.build_teacher(tiny.config("generator")) is None


@pytest.mark.faults
@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("teacher.weight", -1.0, r"teacher\.weight=-1\.0 has to be a number of 0"),
        ("teacher.weight", float("nan"), r"teacher\.weight=nan has to be"),
        ("teacher.weight", 0.0, r"data\.unlabelled='rest' needs teacher\.weight above 0"),
        ("data.unlabelled", "", r"teacher\.weight=1\.0 needs data\.unlabelled"),
        ("teacher.noise", -0.1, r"teacher\.noise=-0\.1 has to be a number of 0"),
        ("teacher.noise_limit", 0.0, r"teacher\.noise_limit=0\.0 has to be a number above 0"),
        ("teacher.ramp", 1.5, r"teacher\.ramp=1\.5 has to be .* from 0 to 1"),
        ("teacher.ramp", -0.5, r"teacher\.ramp=-0\.5 has to be"),
        ("ema_decay", 0.0, r"ema_decay=0\.0 averages nothing"),
    ],
)
def test_an_unusable_teacher_is_refused_at_once(tmp_path, field, value, match):
    found = settings(**{field: value})
    with pytest.raises(UserError, match=match):
        loop.check(found, devices=1)
    with pytest.raises(UserError, match=match):
        loop.train(found, tmp_path / "run", devices=jax.devices()[:1])
    assert not (tmp_path / "run").exists()


@pytest.mark.faults
@pytest.mark.parametrize("name", ["generator", "srgan", "joint", "pyramid"])
def test_other_stages_refuse_images_without_labels(name):
    with pytest.raises(UserError, match=rf"data\.unlabelled='rest' .* stage '{name}', which"):
        loop.check(settings(name), devices=1)
