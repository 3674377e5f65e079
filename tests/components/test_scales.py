import jax
import jax.numpy as jnp
import numpy as np

from histojax.components import scales

LABELS = scales.Labels("contour", 3)


def test_labels_of_touching_nuclei_are_kept_apart_by_their_rims():
    mask = np.array([[[0, 1, 1, 1, 1, 1, 1]]], np.uint8)
    contour = np.array([[[0, 1, 0, 1, 1, 0, 1]]], np.uint8)
    one_hot = LABELS.one_hot({"mask": mask, "contour": contour}, jnp.float32)
    np.testing.assert_array_equal(one_hot.argmax(-1)[0, 0], [0, 2, 1, 2, 2, 1, 2])
    maps = LABELS.maps(one_hot)
    np.testing.assert_array_equal(maps[0, 0, :, 0], mask[0, 0])
    np.testing.assert_array_equal(maps[0, 0, :, 1], [0, 0, 1, 0, 0, 1, 0])


def test_nuclei_as_one_are_what_is_no_ground():
    index = jnp.array([[[0, 1, 2, 0]]])
    found = LABELS.nuclei_as_one(jax.nn.one_hot(index, 3))
    np.testing.assert_array_equal(found, jax.nn.one_hot(jnp.minimum(index, 1), 2))
    for labels in (scales.Labels("classes", 4), scales.Labels("mask", 2)):
        one_hot = jax.nn.one_hot(jnp.minimum(index, labels.count - 1), labels.count)
        np.testing.assert_array_equal(labels.nuclei_as_one(one_hot), one_hot)


def test_labels_are_a_mask_or_the_classes_of_the_annotation():
    batch = {"mask": np.array([[[0, 3, 1]]], np.uint8)}
    found = scales.Labels("mask", 2).one_hot(batch, jnp.float32).argmax(-1)
    np.testing.assert_array_equal(found[0, 0], [0, 1, 1])
    classes = scales.Labels("classes", 4)
    one_hot = classes.one_hot(batch, jnp.float32)
    np.testing.assert_array_equal(one_hot.argmax(-1)[0, 0], [0, 3, 1])
    np.testing.assert_array_equal(classes.maps(one_hot)[0, 0, :, 0], [0, 1, 1])


def test_each_class_has_a_map_where_there_are_more_than_two():
    heads = {("mask", 2): (), ("contour", 3): ("marker",), ("classes", 2): ()}
    heads[("classes", 4)] = ("class_1", "class_2", "class_3")
    probability = jax.nn.softmax(jnp.arange(24.0).reshape(1, 2, 3, 4) ** 2 % 7)
    for (kind, count), more in heads.items():
        labels = scales.Labels(kind, count)
        assert labels.heads == ("mask", *more)
        maps = labels.maps(probability[..., :count])
        np.testing.assert_array_equal(maps[..., 0], 1 - probability[..., 0])
        np.testing.assert_array_equal(maps[..., 1:], probability[..., 1 : 1 + len(more)])


def test_colors_of_labels_are_their_means_and_paint_them():
    image = jnp.array([[[[0.2] * 3, [0.4] * 3, [0.9, 0.0, 0.6]]]])
    one_hot = jax.nn.one_hot(jnp.array([[[0, 0, 2]]]), 3)
    colors = scales.label_colors(image, one_hot)
    whole = [0.5, 0.2, 0.4]  # of a label that is not there
    np.testing.assert_allclose(colors[0], [[0.3] * 3, whole, [0.9, 0.0, 0.6]], atol=1e-6)
    painted = scales.painted(one_hot, colors)
    np.testing.assert_allclose(painted[0, 0], [[0.3] * 3, [0.3] * 3, [0.9, 0.0, 0.6]], atol=1e-6)


def test_a_reduced_image_is_not_rounded():
    image = jnp.full((1, 8, 8, 3), 0.1234)
    np.testing.assert_allclose(scales.reduced(image, 4), 0.1234, rtol=1e-6)


def test_reduced_labels_are_of_the_middles_and_rims_stay_whole():
    index = jnp.arange(16).reshape(1, 4, 4) % 3
    one_hot = jax.nn.one_hot(index, 3)
    classes = scales.Labels("classes", 3).reduced(one_hot, 2)
    np.testing.assert_array_equal(classes, one_hot[:, 1::2, 1::2])
    # Inside at its middle, a cell that holds any rim is rim; background stays what it is.
    index = jnp.array([[[2, 0, 1, 1], [0, 0, 1, 1], [2, 1, 0, 2], [1, 1, 0, 2]]])
    reduced = LABELS.reduced(jax.nn.one_hot(index, 3), 2)
    np.testing.assert_array_equal(reduced.argmax(-1)[0], [[0, 1], [2, 2]])
    np.testing.assert_array_equal(reduced.sum(-1), 1)


def test_moments_are_means_and_deviations_of_each_label():
    image = jnp.array([[[[0.2] * 3, [0.4] * 3, [0.9, 0.0, 0.6]]]])
    one_hot = jax.nn.one_hot(jnp.array([[[0, 0, 2]]]), 3)
    mean, deviation = scales.moments(image, one_hot)[0]
    np.testing.assert_allclose(mean, [[0.3] * 3, [0] * 3, [0.9, 0.0, 0.6]], atol=1e-6)
    np.testing.assert_allclose(deviation, [[0.1] * 3, [0] * 3, [0] * 3], atol=2e-3)
    slope = jax.grad(lambda x: scales.moments(x, one_hot).sum())(image)
    assert np.isfinite(slope).all()


def test_an_image_gets_the_mean_colors_of_its_labels():
    one_hot = jax.nn.one_hot(jnp.array([[[0, 0, 1, 1]]]), 3)
    image = jnp.array([[[[0.0] * 3, [0.2] * 3, [0.5] * 3, [0.9] * 3]]])
    colors = jnp.array([[[0.3, 0.4, 0.5], [0.6] * 3, [9.0] * 3]])
    found = scales.recolored(image, one_hot, colors)
    wanted = [[0.2, 0.3, 0.4], [0.4, 0.5, 0.6], [0.4] * 3, [0.8] * 3]
    np.testing.assert_allclose(found[0, 0], wanted, atol=1e-6)


def test_scales_that_start_from_tissue_add_up_to_it():
    rng = np.random.default_rng(0)
    tissue = jnp.asarray(rng.random((1, 32, 32, 3)), jnp.float32)
    masks = [jnp.zeros((1, side, side, 3)) for side in (8, 16, 32)]
    lowest, *finer = scales.grounds_of("tissue", masks, jnp.zeros((1, 3, 3)), tissue)
    np.testing.assert_allclose(lowest, scales.reduced(tissue, 4), atol=1e-6)
    image = lowest
    for ground in finer:
        image = scales.enlarged(image, 2) + ground
    np.testing.assert_allclose(image, tissue, atol=1e-5)


def test_other_starts_are_the_lowest_scales_alone():
    masks = [jnp.zeros((2, side, side, 3)).at[..., 1].set(1.0) for side in (8, 16)]
    colors = jnp.broadcast_to(jnp.array([[0.1] * 3, [0.2, 0.3, 0.4], [0.5] * 3]), (2, 3, 3))
    for start, color in (("colors", [0.2, 0.3, 0.4]), ("gray", [0.5] * 3)):
        lowest, above = scales.grounds_of(start, masks, colors)
        assert above is None
        np.testing.assert_allclose(lowest, np.broadcast_to(color, (2, 8, 8, 3)), atol=1e-6)
