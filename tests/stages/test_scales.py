import jax
import jax.numpy as jnp
import numpy as np

from histojax.stages import scales

LABELS = scales.Labels("contour", 3)


def test_labels_of_touching_nuclei_are_kept_apart_by_their_rims():
    mask = np.array([[[0, 1, 1, 1, 1, 1, 1]]], np.uint8)
    contour = np.array([[[0, 1, 0, 1, 1, 0, 1]]], np.uint8)
    one_hot = LABELS.one_hot({"mask": mask, "contour": contour}, jnp.float32)
    np.testing.assert_array_equal(one_hot.argmax(-1)[0, 0], [0, 2, 1, 2, 2, 1, 2])
    maps = LABELS.maps(one_hot)
    np.testing.assert_array_equal(maps[0, 0, :, 0], mask[0, 0])
    np.testing.assert_array_equal(maps[0, 0, :, 1], [0, 0, 1, 0, 0, 1, 0])


def test_labels_are_a_mask_or_the_classes_of_the_annotation():
    batch = {"mask": np.array([[[0, 3, 1]]], np.uint8)}
    found = scales.Labels("mask", 2).one_hot(batch, jnp.float32).argmax(-1)
    np.testing.assert_array_equal(found[0, 0], [0, 1, 1])
    classes = scales.Labels("classes", 4)
    one_hot = classes.one_hot(batch, jnp.float32)
    np.testing.assert_array_equal(one_hot.argmax(-1)[0, 0], [0, 3, 1])
    np.testing.assert_array_equal(classes.maps(one_hot)[0, 0, :, 0], [0, 1, 1])


def test_a_reduced_image_is_not_rounded_and_a_thinned_mask_stays_one():
    image = jnp.full((1, 8, 8, 3), 0.1234)
    np.testing.assert_allclose(scales.reduced(image, 4), 0.1234, rtol=1e-6)
    labels = jax.nn.one_hot(jnp.arange(16).reshape(1, 4, 4) % 3, 3)
    thin = scales.thinned(labels, 2)
    np.testing.assert_array_equal(thin, labels[:, 1::2, 1::2])
