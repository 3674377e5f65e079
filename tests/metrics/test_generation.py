import numpy as np
import pytest

from histojax.metrics.generation import (
    diversity,
    jackknife_error,
    kernel_distance,
    nearest,
    squared_mmd,
)


def draws(mean, count, seed, size=8):
    return mean + np.random.default_rng(seed).standard_normal((count, size))


def test_the_discrepancy_is_that_of_its_definition():
    x, y = draws(0, 4, 0, 3), draws(1, 5, 1, 3)

    def k(a, b):
        return (a @ b / 3 + 1) ** 3

    within_x = np.mean([k(x[i], x[j]) for i in range(4) for j in range(4) if i != j])
    within_y = np.mean([k(y[i], y[j]) for i in range(5) for j in range(5) if i != j])
    across = np.mean([k(a, b) for a in x for b in y])
    assert squared_mmd(x, y) == pytest.approx(within_x + within_y - 2 * across, rel=1e-12)


def test_two_pairs_of_points_by_hand():
    # Kernel of D = 1: (1 + 1)^3 = 8 between ones, 1 with a zero.
    assert squared_mmd([[1.0], [1.0]], [[0.0], [0.0]]) == pytest.approx(8 + 1 - 2)


def test_it_has_no_bias_and_grows_with_the_difference():
    same = [squared_mmd(draws(0, 20, s), draws(0, 20, 1000 + s)) for s in range(400)]
    error = np.std(same) / np.sqrt(len(same))
    assert abs(np.mean(same)) < 3 * error
    assert min(same) < 0
    apart = [kernel_distance(draws(0, 50, 1), draws(m, 50, 2)) for m in (0, 0.5, 1)]
    assert apart == sorted(apart)
    assert apart[1] > 5 * error


def test_subsets_are_drawn_by_seed_within_the_sets():
    x, y = draws(0, 30, 0), draws(1, 12, 1)
    assert kernel_distance(x, y, subsets=5, seed=3) == kernel_distance(x, y, subsets=5, seed=3)
    assert kernel_distance(x, y, subsets=5, seed=3) != kernel_distance(x, y, subsets=5, seed=4)
    # Of sets no larger than the subsets there is one, up to its order.
    assert kernel_distance(y, y + 1, subsets=4, size=100) == pytest.approx(squared_mmd(y, y + 1))


@pytest.mark.parametrize("paired", [True, False])
def test_the_error_is_how_much_it_varies_between_sets_of_groups(paired):
    # Squares of one image are alike, so that there are as many images as there are groups.
    def clustered(seed, groups=20):
        return draws(0, groups, seed, 3).repeat(4, 0) + 0.1 * draws(0, 4 * groups, seed + 7, 3)

    names = [f"{i}" for i in range(20) for _ in range(4)]
    others = names if paired else [f"o{name}" for name in names]
    found, errors = [], []
    for seed in range(60):
        # Of two sets that are alike the jackknife says too much.
        x, y = clustered(2 * seed), 1 + clustered(2 * seed + 1)
        found.append(squared_mmd(x, y))
        errors.append(jackknife_error(x, y, names, others))
    assert np.mean(errors) == pytest.approx(np.std(found), rel=0.5)
    assert np.isnan(jackknife_error(x, y, ["a"] * 80, others))


def test_a_copy_is_its_own_nearest():
    references = draws(0, 10, 0)
    index, distance = nearest(references[[7, 2]], references, count=2)
    np.testing.assert_array_equal(index[:, 0], [7, 2])
    np.testing.assert_allclose(distance[:, 0], 0, atol=1e-6)
    expected = np.sort(np.linalg.norm(references - references[7], axis=1))[1]
    assert distance[0, 1] == pytest.approx(expected)


def test_diversity_is_the_mean_distance_between_noises():
    features = np.array([[[0.0, 0], [3, 4], [0, 0]], [[1, 1], [1, 1], [1, 1]]])
    # Pairs 5, 0, 5 of the first mask and none of the second.
    assert diversity(features) == pytest.approx(10 / 6)


@pytest.mark.faults
@pytest.mark.parametrize("shapes", [((1, 3), (5, 3)), ((5, 3), (5, 4)), ((5,), (5,))])
def test_sets_that_cannot_be_compared_are_refused(shapes):
    with pytest.raises(ValueError, match="features are"):
        squared_mmd(*(np.zeros(shape) for shape in shapes))
