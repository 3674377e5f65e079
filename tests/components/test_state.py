import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from histojax.components import state as states
from histojax.models.generators.resnext import ResNeXt
from histojax.stages.joint import Joint
from tests import tiny

OPTIMIZERS = {"net": optax.sgd(0.5)}


def make(**changes):
    state = states.State(
        step=jnp.zeros((), jnp.int32),
        skipped=jnp.zeros((), jnp.int32),
        skipped_in_a_row=jnp.zeros((), jnp.int32),
        rng=jax.random.key(0),
        params={"net": {"w": jnp.asarray([1.0, 2.0])}},
        statistics={"net": {"mean": jnp.zeros(2)}},
        opt_state={"net": OPTIMIZERS["net"].init({"w": jnp.zeros(2)})},
        ema={"net": {"params": {"w": jnp.asarray([1.0, 2.0])}, "mean": jnp.zeros(2)}},
        frozen={},
    )
    return state.replace(**changes)


def advance(state, grad, stats=1.0, loss=0.0, optimizers=OPTIMIZERS, **options):
    return states.advance(
        state,
        optimizers,
        {"net": {"w": jnp.asarray(grad)}},
        {"net": {"mean": jnp.full(2, stats)}},
        {"loss": jnp.asarray(loss)},
        **{"ema_decay": 0.5, **options},
    )


def test_a_finite_step_moves_everything():
    state, metrics = advance(make(), [2.0, -2.0])
    np.testing.assert_allclose(state.params["net"]["w"], [0.0, 3.0])
    np.testing.assert_allclose(state.statistics["net"]["mean"], [1.0, 1.0])
    # decay at the first step is min(.5, 1/10): w_ema = w + .9 (new - w)
    np.testing.assert_allclose(state.ema["net"]["params"]["w"], [0.1, 2.9], rtol=1e-6)
    np.testing.assert_allclose(state.ema["net"]["mean"], [0.9, 0.9], rtol=1e-6)
    assert int(state.step) == 1
    assert int(state.skipped) == 0
    np.testing.assert_allclose(metrics["gradient_norm_net"], np.sqrt(8), rtol=1e-6)


def test_the_average_decays_as_asked_once_the_run_is_old():
    state, _ = advance(make(step=jnp.asarray(1000, jnp.int32)), [2.0, -2.0])
    np.testing.assert_allclose(state.ema["net"]["params"]["w"], [0.5, 2.5])
    np.testing.assert_allclose(state.ema["net"]["mean"], [0.5, 0.5])


def test_the_average_moves_once_an_update_of_several_steps():
    three = {"net": optax.MultiSteps(optax.sgd(0.5), 3).gradient_transformation()}
    one = make()
    several = make(opt_state={"net": three["net"].init(one.params["net"])})
    for update in range(3):
        mean = np.asarray([1.0, -2.0]) + update
        one, _ = advance(one, mean, stats=update)
        for factor in (0.0, 2.5, 0.5):
            before = several
            several, _ = advance(several, factor * mean, stats=update, optimizers=three)
            if factor:
                several, _ = advance(several, [np.nan, 0.0], optimizers=three)  # is skipped
            assert tiny.same(several.ema, before.ema) == (factor != 0.5)
            assert tiny.same(several.statistics["net"], {"mean": np.full(2, float(update))})
        for a, b in zip(jax.tree.leaves(several.ema), jax.tree.leaves(one.ema), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)


def test_a_non_finite_step_changes_the_counts_alone():
    for grad, loss in (([np.nan, 0.0], 0.0), ([0.0, 0.0], np.inf), ([3e38, -3e38], 0.0)):
        start = make(
            params={"net": {"w": jnp.asarray([-3e38, 3e38])}}, skipped_in_a_row=jnp.int32(2)
        )
        state, metrics = advance(start, grad, loss=loss)
        np.testing.assert_array_equal(state.params["net"]["w"], start.params["net"]["w"])
        np.testing.assert_array_equal(
            state.ema["net"]["params"]["w"], start.ema["net"]["params"]["w"]
        )
        np.testing.assert_array_equal(state.ema["net"]["mean"], [0.0, 0.0])
        np.testing.assert_array_equal(state.statistics["net"]["mean"], [0.0, 0.0])
        assert int(state.step) == 1
        assert int(state.skipped) == 1
        assert int(metrics["skipped_in_a_row"]) == 3


@pytest.mark.faults
@pytest.mark.parametrize("name", ["generator", "segmentation", "srgan_srresnet", "joint"])
def test_no_step_on_blank_crops_is_skipped(name):
    """Glass without tissue, and what lies beyond a slide's edge: nothing to normalise by."""
    stage, start, batch = tiny.built(name)
    for value in (255, 0):
        blank = {field: np.full_like(pixels, value) for field, pixels in batch.items()}
        if "mask" in blank:
            blank["mask"][:] = 0
        state, history = tiny.stepped(stage, start, blank, 2)
        assert int(state.skipped) == 0
        for metrics in history:
            assert [key for key, number in metrics.items() if not np.isfinite(number)] == []
        for tree in (state.params, state.statistics, state.ema):
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))
        # An untrained generator is bicubic interpolation: right on blank images, and still.
        assert name == "generator" or not tiny.same(state.params, start.params)


def test_a_finite_step_ends_the_row_of_skipped_ones():
    state, _ = advance(make(skipped=jnp.int32(4), skipped_in_a_row=jnp.int32(4)), [0.0, 0.0])
    assert int(state.skipped_in_a_row) == 0
    assert int(state.skipped) == 4


def test_a_network_stands_still_until_its_step():
    asleep, _ = advance(make(), [2.0, 2.0], learn_from_step={"net": 1})
    np.testing.assert_array_equal(asleep.params["net"]["w"], [1.0, 2.0])
    np.testing.assert_array_equal(asleep.statistics["net"]["mean"], [0.0, 0.0])
    awake, _ = advance(asleep, [2.0, 2.0], learn_from_step={"net": 1})
    np.testing.assert_allclose(awake.params["net"]["w"], [0.0, 1.0])


def test_mean_over_devices_is_one_all_reduce():
    devices = jax.devices()[:2]
    tree = {"a": jnp.arange(4.0).reshape(2, 2), "b": jnp.arange(2.0)}

    def mean(t):
        return states.mean_over(t, "data")

    averaged = jax.pmap(mean, axis_name="data", devices=devices)(tree)
    np.testing.assert_allclose(averaged["a"][0], [1.0, 2.0])
    np.testing.assert_allclose(averaged["b"], [0.5] * 2)


def test_keys_differ_between_steps_and_devices():
    state = make()

    def key(s):
        return jax.random.key_data(states.step_key(s, "data"))

    replicated = jax.tree.map(lambda x: jnp.stack([x, x]), state.replace(opt_state={}))
    keys = jax.pmap(key, axis_name="data", devices=jax.devices()[:2])(replicated)
    assert not np.array_equal(keys[0], keys[1])
    later = states.step_key(state.replace(step=jnp.int32(1)), None)
    assert not np.array_equal(jax.random.key_data(later), jax.random.key_data(state.rng))


@pytest.mark.parametrize("name", ["generator", "use_net", "segmentation", "joint", "pyramid"])
def test_a_step_that_computes_networks_twice_is_the_same_step(name):
    stage, state, batch = tiny.built(name)
    if name == "pyramid":
        batch = tiny.batch_for(stage, crop=32)
    twice = dataclasses.replace(stage, remat=True)
    assert not stage.remat
    (once, (metrics,)), (other, (others,)) = (
        tiny.stepped(of, state, batch, 1) for of in (stage, twice)
    )
    for name, value in metrics.items():
        np.testing.assert_allclose(others[name], value, rtol=1e-5, err_msg=name)
    for a, b in zip(jax.tree.leaves(once.params), jax.tree.leaves(other.params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    programs = [str(jax.make_jaxpr(of.train_step)(state, batch)) for of in (stage, twice)]
    before, after = (program.count("remat") for program in programs)
    # joint reads the real image so in any case, beside its enhanced one.
    assert (before > 0) == isinstance(stage, Joint)
    assert after > before


def test_of_networks_computed_twice_blocks_are_kept(capsys):
    network = ResNeXt(8, 16, norm="none", upsampling="direct", width=16, cardinality=4)
    x = jnp.zeros((2, 32, 32, 3))
    params = network.init(jax.random.key(0), x, train=False)["params"]

    def kept(remat):
        """Shapes of what the gradient reads, but for parameters and the image."""

        def loss(params):
            output, _ = states.apply(network, params, {}, x, key=jax.random.key(1), remat=remat)
            return jnp.sum(output**2)

        jax.ad_checkpoint.print_saved_residuals(loss, params)
        lines = capsys.readouterr().out.splitlines()
        return [line.partition("]")[0] for line in lines if "argument" not in line][1:]

    assert len(kept(False)) > 4 * 8
    # The input of each block, and the output, which the loss reads.
    assert kept(True) == ["f32[2,32,32,16"] * (8 + 1) + ["f32[2,128,128,3"]
