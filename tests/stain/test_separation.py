import numpy as np
import pytest
import scipy.optimize
from sklearn.decomposition import DictionaryLearning

from histojax.imaging.reader import read_image
from histojax.stain import separation
from histojax.stain.hed import optical_density
from histojax.stain.normalization import SPARSITY, sample_tissue
from tests import stained


def apart(stains, others):
    return [separation.angle(*pair) for pair in zip(stains, others, strict=True)]


def learn(density, sparsity=SPARSITY):
    return separation.learn_stains(density, sparsity, separation.extreme_stains(density))


@pytest.fixture(scope="module")
def density():
    return optical_density(stained.image()).reshape(-1, 3).T.astype(np.float64)


@pytest.mark.parametrize("sparsity", [0.0, 0.02, 0.3])
def test_sparse_concentrations_are_those_of_another_solver(sparsity):
    rng = np.random.default_rng(0)
    # Pixels on both sides of the two stains' cone and, being partly negative, none of either.
    density = rng.normal(0.3, 0.5, (3, 300))
    stains = stained.STAINS * [[1.0], [0.8]]
    got = separation.sparse_concentrations(density, stains, sparsity)
    # |v - W^T h|^2 / 2 + lambda sum(h) is, but for a constant, |u - W^T h|^2 / 2 for this u.
    moved = density - sparsity * np.linalg.pinv(stains).sum(axis=1, keepdims=True)
    expected = [scipy.optimize.nnls(stains.T, pixel)[0] for pixel in moved.T]
    np.testing.assert_allclose(got.T, expected, atol=1e-9)
    kinds = {tuple(pixel) for pixel in (got > 0).T.tolist()}
    assert kinds == {(False, False), (False, True), (True, False), (True, True)}


def test_least_squares_is_exact_within_the_cone_and_cut_outside():
    concentrations = np.array([[1.0, 0.5, 0.0], [0.0, 0.7, -0.2]])
    got = separation.least_squares_concentrations(stained.STAINS.T @ concentrations, stained.STAINS)
    np.testing.assert_allclose(got, np.maximum(concentrations, 0), atol=1e-12)


def test_known_stains_are_found(density):
    # Exact but for grey levels: rounding turns the palest pixels, density .3, by up to .3 degrees.
    assert max(apart(learn(density, 1e-3), stained.STAINS)) < 0.3
    # The weight on concentrations draws the stains together a little.
    assert max(apart(learn(density), stained.STAINS)) < 1.0
    # A percent of the pixels, by their angle, lies beyond each extreme.
    assert max(apart(separation.extreme_stains(density), stained.STAINS)) < 0.3


@pytest.mark.parametrize("maxima", [(0.8, 1.6), (2.5, 0.6)])
def test_haematoxylin_comes_first_whichever_there_is_more_of(maxima):
    density = optical_density(stained.image(maxima=maxima)).reshape(-1, 3).T.astype(np.float64)
    for stains in (learn(density), separation.extreme_stains(density)):
        assert max(apart(stains, stained.STAINS)) < 1.5
        np.testing.assert_allclose(np.linalg.norm(stains, axis=1), 1.0)
    assert max(apart(separation.haematoxylin_first(stained.STAINS[::-1]), stained.STAINS)) == 0


def test_where_learning_starts_does_not_matter(density):
    other = separation.haematoxylin_first(np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]]))
    found = separation.learn_stains(density, SPARSITY, other)
    assert max(apart(found, learn(density))) < 0.05


def test_angle():
    x, y = np.array([2.0, 0.0, 0.0]), np.array([1.0, 1.0, 0.0])
    assert separation.angle(x, y) == pytest.approx(45.0)
    assert separation.angle(x, x) == 0.0
    assert separation.angle(x, -x) == pytest.approx(180.0)
    assert separation.angle(x, np.array([2.0, 2e-9, 0.0])) == pytest.approx(
        np.degrees(1e-9), rel=1e-6
    )


def reference(density):
    """scikit-learn's positive dictionary learning on the same pixels and objective."""
    learner = DictionaryLearning(
        2,
        alpha=SPARSITY,
        max_iter=300,
        tol=1e-7,
        fit_algorithm="cd",
        positive_dict=True,
        positive_code=True,
        random_state=0,
    )
    return separation.haematoxylin_first(learner.fit(density.T).components_)


def squared_error(density, stains):
    concentrations = separation.sparse_concentrations(density, stains, SPARSITY)
    return np.square(density - stains.T @ concentrations).sum()


def check_against_reference(density):
    ours, theirs = learn(density), reference(density)
    assert max(apart(ours, theirs)) < 2.0
    assert squared_error(density, ours) < 1.01 * squared_error(density, theirs)


def test_stains_are_scikit_learns(density):
    check_against_reference(density[:, :300])


def test_stains_of_real_tissue_are_scikit_learns(real_data):
    path = real_data / "monuseg" / "images" / "TCGA-G9-6363-01Z-00-DX1.png"
    pixels = sample_tissue([read_image(path)])[:300]
    check_against_reference(optical_density(pixels).T.astype(np.float64))
