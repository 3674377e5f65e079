import numpy as np
import pytest
import scipy.stats

from histojax.metrics import intervals


def test_the_interval_of_many_normal_values_is_that_of_the_mean():
    values = np.random.default_rng(0).normal(3, 2, 2_000)
    interval = intervals.bootstrap_mean(values)
    half = 1.96 * values.std() / np.sqrt(2_000)
    assert interval.mean == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.05 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.05 * half)


def test_the_interval_of_few_values_is_scipys():
    values = np.array([28.1, 30.2, 27.5, 29.9, 31.0, 28.8])
    ours = intervals.bootstrap_mean(values, resamples=100_000)
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=100_000, method="percentile", rng=1
    ).confidence_interval
    assert ours.low == pytest.approx(theirs.low, abs=0.02)
    assert ours.high == pytest.approx(theirs.high, abs=0.02)


def test_covers_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    hits = 0
    for seed in range(300):
        interval = intervals.bootstrap_mean(rng.exponential(size=60), resamples=500, seed=seed)
        hits += interval.low <= 1 <= interval.high
    # 95 % less the known shortfall of percentile intervals, within 3 standard errors of 300 draws.
    assert 0.88 <= hits / 300 <= 0.985


def test_one_seed_gives_one_interval():
    values = np.random.default_rng(0).normal(size=40)
    assert intervals.bootstrap_mean(values) == intervals.bootstrap_mean(values)
    assert intervals.bootstrap_mean(values) != intervals.bootstrap_mean(values, seed=1)


def test_one_value_and_equal_values_have_no_width():
    assert intervals.bootstrap_mean([0.3]) == (0.3, 0.3, 0.3, 1, 0)
    assert intervals.bootstrap_mean([0.1] * 7) == (0.1, 0.1, 0.1, 7, 0)


def test_values_that_are_not_finite_are_left_out_and_counted():
    interval = intervals.bootstrap_mean([np.inf, 2.0, np.nan, 2.0])
    assert interval == (2.0, 2.0, 2.0, 2, 2)
    nothing = intervals.bootstrap_mean([np.inf])
    assert np.isnan(nothing.mean)
    assert (nothing.n, nothing.left_out) == (0, 1)


def test_pairing_narrows_what_images_spread():
    rng = np.random.default_rng(0)
    base = rng.normal(28, 3, 30)
    better = base + 0.5 + rng.normal(0, 0.1, 30)
    difference = intervals.paired_difference(better, base)
    assert difference.low > 0.4
    assert difference.high < 0.6
    assert intervals.bootstrap_mean(better).low < intervals.bootstrap_mean(base).high
    assert intervals.paired_difference([np.inf, 1.0], [np.inf, 0.0]) == (1.0, 1.0, 1.0, 1, 1)
    with pytest.raises(ValueError, match="same images"):
        intervals.paired_difference([1.0], [1.0, 2.0])


def test_the_p_of_six_images_that_agree_is_the_smallest():
    better = np.array([28.1, 30.2, 27.5, 29.9, 31.0, 28.8])
    # Of 2^6 signs, only all + and all - are as far from 0.
    assert intervals.paired_test(better + 0.1, better) == (2 / 64, 6, True)
    assert intervals.paired_test(better, better + 0.1) == (2 / 64, 6, True)


def test_the_p_of_a_small_table_is_counted_by_hand():
    # Sums of (+-1, +-2, +-3): |sum| >= 4 for 1 + 2 + 3, -1 + 2 + 3, and their opposites.
    assert intervals.paired_test([0.0, 2.0, 3.0], [1.0, 0.0, 0.0]) == (4 / 8, 3, True)
    assert intervals.paired_test([1.0, 2.0, 3.0], [0.0] * 3) == (2 / 8, 3, True)


def test_equal_scores_differ_by_chance():
    assert intervals.paired_test([1.0, 2.0], [1.0, 2.0]).p == 1
    # A zero adds a sign that changes nothing.
    assert intervals.paired_test([1.0, 1.0, 1.0, 5.0], [0.0, 0.0, 0.0, 5.0]) == (4 / 16, 4, True)
    assert intervals.paired_test([1.0], [0.0]) == (1.0, 1, True)


def test_the_p_leaves_out_what_the_interval_leaves_out():
    a, b = [np.inf, 2.0, np.nan, 3.0, np.inf], [np.inf, 1.0, 1.0, 1.0, 0.0]
    assert intervals.paired_test(a, b) == (2 / 4, 2, True)
    assert intervals.paired_difference(a, b).n == 2
    nothing = intervals.paired_test([np.nan], [1.0])
    assert np.isnan(nothing.p)
    assert nothing.n == 0
    with pytest.raises(ValueError, match="same images"):
        intervals.paired_test([1.0], [1.0, 2.0])


def test_the_p_of_many_images_is_that_of_the_t_test():
    rng = np.random.default_rng(0)
    a, b = rng.normal(28, 3, 40), rng.normal(27.9, 3, 40)
    ours = intervals.paired_test(a, b)
    assert not ours.exact
    # 2^14 draws know a p near .1 to .005 (two standard errors).
    assert ours.p == pytest.approx(scipy.stats.ttest_rel(a, b).pvalue, abs=0.01)
    assert 0.01 < ours.p < 0.9
    assert intervals.paired_test(a, b) == ours


def test_a_pooled_score_of_equal_counts_is_the_mean():
    values = np.random.default_rng(0).random(40)
    counts = np.stack([values, np.ones(40)], -1)
    (pooled,) = intervals.bootstrap_pooled(
        counts, lambda sums: sums[:, :1] / sums[:, 1:], resamples=100_000
    )
    mean = intervals.bootstrap_mean(values, resamples=100_000)
    assert pooled.mean == pytest.approx(mean.mean)
    assert (pooled.low, pooled.high) == pytest.approx((mean.low, mean.high), abs=0.002)
    assert pooled.n == 40


def test_a_pooled_score_weighs_images_by_their_counts():
    def score(sums):
        with np.errstate(invalid="ignore"):
            return sums[..., 0] / sums[..., 1]

    counts = np.array([[[1, 1], [0, 0], [2, 3]], [[1, 7], [0, 0], [0, 0]]])
    first, nothing, one = intervals.bootstrap_pooled(counts, score)
    assert first == (2 / 8, 1 / 7, 1, 2, 0)
    assert np.isnan(nothing.mean)
    # Draws of the second image alone say nothing of it.
    assert one == pytest.approx((2 / 3, 2 / 3, 2 / 3, 2, 0))
    assert intervals.bootstrap_pooled(counts[:1], score)[2] == pytest.approx((2 / 3,) * 3 + (1, 0))
