import numpy as np
import pytest
import scipy.optimize

from histojax.metrics import instances, registry
from tests.oracles import score_by_loops

PERFECT = {**dict.fromkeys(("aji", "aji_plus", "pq", "dq", "sq", "f1"), 1.0), "merged": 0.0}


def line(*runs):
    """Labels one after another in a row: (label, pixels) each."""
    return np.concatenate([np.full(pixels, label) for label, pixels in runs])[None]


def cells(seed, *, moved=0.0, missed=0.0, size=80, count=40, radius=9):
    """Round cells, flat where they meet, int64 (size, size); one seed's cells may be moved."""
    rng = np.random.default_rng(seed)
    centers, noise = rng.uniform(0, size, (2, count, 2))
    centers = centers + moved * (noise / size - 0.5)
    kept = rng.random(count) >= missed
    y, x = np.mgrid[:size, :size]
    squares = (y - centers[:, 0, None, None]) ** 2 + (x - centers[:, 1, None, None]) ** 2
    labels = squares.argmin(0)
    return np.where((squares.min(0) < radius**2) & kept[labels], labels + 1, 0)


def scored(prediction, truth):
    return registry.scores("instances", instances.overlap_table(prediction, truth))


def test_table_of_a_row():
    truth = line((0, 2), (7, 4), (0, 1), (3, 3), (0, 2))
    prediction = line((0, 1), (9, 3), (2, 3), (9, 1), (0, 4))
    table = instances.overlap_table(prediction, truth)
    np.testing.assert_array_equal(table.truth_labels, [3, 7])
    np.testing.assert_array_equal(table.truth_areas, [3, 4])
    np.testing.assert_array_equal(table.prediction_labels, [2, 9])
    np.testing.assert_array_equal(table.prediction_areas, [3, 4])
    # Label 3 begins in pixel 7, the last of 9; of 7's pixels 2 to 5 the first two are 9, then 2.
    np.testing.assert_array_equal(table.truth_index, [0, 1, 1])
    np.testing.assert_array_equal(table.prediction_index, [1, 0, 1])
    np.testing.assert_array_equal(table.shared, [1, 2, 2])
    np.testing.assert_array_equal(table.union, [6, 5, 6])


def test_table_does_not_depend_on_the_piece(monkeypatch):
    truth, prediction = cells(0), cells(0, moved=8.0)
    whole = instances.overlap_table(prediction, truth)
    monkeypatch.setattr(instances, "_PIXELS_AT_ONCE", 37)
    pieces = instances.overlap_table(prediction, truth)
    for name, values in vars(whole).items():
        np.testing.assert_array_equal(values, getattr(pieces, name), err_msg=name)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.uint64])
def test_labels_of_any_integer_type(dtype):
    truth, prediction = cells(1), cells(1, moved=8.0)
    scores = scored(prediction, truth)
    assert scored(prediction.astype(dtype), truth.astype(np.int64)) == scores
    # The largest labels that the type has, in the same order.
    largest = np.iinfo(dtype).max
    lifted = np.where(truth > 0, largest - 40 + truth.astype(dtype), 0).astype(dtype)
    assert lifted.max() > largest - 5
    assert scored(prediction, lifted) == scores
    assert scored(prediction.T, lifted.T) == pytest.approx(scores)


def test_every_nucleus_of_70_000_counts():
    labels = np.arange(70_000, dtype=np.int32).reshape(280, 250) + 1
    table = instances.overlap_table(labels, labels)
    assert len(table.truth_labels) == len(table.shared) == 70_000
    assert scored(labels, labels) == PERFECT
    # In 16 bits, labels 65,536 and more would fall on others.
    assert scored(labels.astype(np.uint16), labels)["f1"] < 1


def test_identical_and_empty():
    some, empty = cells(2), np.zeros((80, 80), np.int32)
    assert scored(some, some) == PERFECT
    assert scored(empty, empty) == PERFECT
    assert scored(np.zeros((0, 5), int), np.zeros((0, 5), int)) == PERFECT
    nothing = dict.fromkeys(PERFECT, 0.0)
    assert scored(empty, some) == nothing
    assert scored(some, empty) == nothing


def test_no_background_anywhere():
    truth, prediction = line((1, 4), (2, 4)), line((1, 6), (2, 2))
    # 1 with 1: 4 of 6 px; 2 with 2: 2 of 4 px.
    table = instances.overlap_table(prediction, truth)
    assert instances.aji(table) == pytest.approx((4 + 2) / (6 + 4))


def test_prediction_merged_over_two_nuclei():
    truth, prediction = line((1, 6), (2, 4)), line((5, 10))
    table = instances.overlap_table(prediction, truth)
    # Both nuclei take the one prediction: (6 + 4) / (10 + 10).
    assert instances.aji(table) == pytest.approx(0.5)
    # One to one, the greater IoU of 6 / 10 counts, and the other nucleus's 4 px stay alone.
    assert instances.aji_plus(table) == pytest.approx(6 / (10 + 4))
    assert instances.panoptic_quality(table) == pytest.approx((0.6 * 2 / 3, 2 / 3, 0.6))
    assert instances.f1(table) == pytest.approx(2 / 3)


def test_prediction_taken_twice_leaves_another_unused():
    truth = line((1, 4), (0, 1), (2, 4), (0, 3))
    # Nucleus 1 has 3 of 7 px in common with 8; nucleus 2 has 2 of 8 with 8, and 2 of 4 with 6.
    table = instances.overlap_table(line((0, 1), (8, 6), (6, 2), (0, 3)), truth)
    assert instances.aji(table) == pytest.approx((3 + 2) / (7 + 4))
    # Nucleus 1 has 3 of 8 px in common with 8; nucleus 2 has 3 of 8 with 8, and 1 of 7 with 6,
    # which is left over with its 4 px.
    table = instances.overlap_table(line((0, 1), (8, 7), (6, 4)), truth)
    assert instances.aji(table) == pytest.approx((3 + 3) / (8 + 8 + 4))
    # One to one, 1 with 8 and 2 with 6 is more than 2 with 8 alone.
    assert instances.aji_plus(table) == pytest.approx((3 + 1) / (8 + 7))


def test_aji_by_hand():
    truth = line((1, 5), (0, 5), (2, 3), (0, 7))
    prediction = line((0, 1), (1, 5), (0, 10), (2, 4))
    # 1 with 1: 4 of 6 px; 2 missed, 3 px; prediction 2 extra, 4 px.
    table = instances.overlap_table(prediction, truth)
    assert instances.aji(table) == pytest.approx(4 / (6 + 3 + 4))


def test_aji_takes_the_lowest_label_of_equals():
    # Nucleus 1 has 2 of 6 px in common with either prediction, nucleus 2 has 2 of 4 with the right.
    truth = line((0, 2), (1, 4), (2, 2))
    table = instances.overlap_table(line((3, 4), (4, 4)), truth)
    assert instances.aji(table) == pytest.approx((2 + 2) / (6 + 4))
    # Both take the right one, and the left one's 4 px are left over.
    table = instances.overlap_table(line((4, 4), (3, 4)), truth)
    assert instances.aji(table) == pytest.approx((2 + 2) / (6 + 4 + 4))


# IoU: 1 with 7 6/14, the greatest; 1 with 8 and 2 with 7 4/10 each, which is more together.
CROSSED = line((8, 4), (7, 10)), line((1, 10), (2, 4))


def test_best_assignment_is_not_the_greedy_one():
    table = instances.overlap_table(*CROSSED)
    assert instances.aji_plus(table) == pytest.approx((4 + 4) / (10 + 10))
    assert instances.aji(table) == pytest.approx((6 + 4) / (14 + 10 + 4))


def test_pq_by_hand_and_iou_of_one_half_exactly():
    truth = line((1, 4), (0, 2), (2, 4), (0, 4), (3, 5))
    prediction = line((1, 3), (0, 3), (2, 2), (0, 6), (3, 4), (0, 1))
    # IoU: 3/4, 2/4, 4/5. The second is not above .5.
    table = instances.overlap_table(prediction, truth)
    quality = instances.panoptic_quality(table)
    assert quality.dq == pytest.approx(2 / (2 + 0.5 + 0.5))
    assert quality.sq == pytest.approx((3 / 4 + 4 / 5) / 2)
    assert quality.pq == pytest.approx((3 / 4 + 4 / 5) / 3)
    # F1 counts what reaches its threshold.
    assert instances.f1(table) == 1
    assert instances.f1(table, threshold=0.51) == pytest.approx(2 / 3)
    assert instances.f1(table, threshold=0.8) == pytest.approx(1 / 3)
    assert instances.f1(table, threshold=0.81) == 0


def test_halves_of_a_nucleus_count_once():
    truth, prediction = line((1, 4)), line((1, 2), (2, 2))
    table = instances.overlap_table(prediction, truth)
    assert instances.f1(table) == pytest.approx(2 * 1 / 3)
    assert instances.panoptic_quality(table) == (0, 0, 0)


def test_f1_takes_as_many_matches_as_possible():
    table = instances.overlap_table(*CROSSED)
    assert instances.f1(table, threshold=0.4) == 1
    assert instances.f1(table, threshold=0.41) == pytest.approx(2 * 1 / 4)
    assert instances.f1(table) == 0


@pytest.mark.parametrize("seed", range(6))
def test_agrees_with_loops_over_instances(seed):
    truth = cells(seed)
    prediction = cells(seed, moved=14.0, missed=0.1)
    scores = scored(prediction, truth)
    assert 0.1 < scores["aji"] < 0.9
    assert scores == pytest.approx(score_by_loops(prediction, truth), abs=1e-12)


@pytest.mark.parametrize(
    ("seed", "aji", "aji_plus", "pq", "sq", "f1"),
    [
        (
            *(13, 0.34944612286002014, 0.3721985815602837, 0.19619411077254859, 0.5885823323176458),
            (0.7948717948717948, 0.3333333333333333, 0.02564102564102564),
        ),
        (
            *(11, 0.40688685874912156, 0.42142527320301676, 0.1744314292808632, 0.6105100024830211),
            (0.8571428571428571, 0.2857142857142857, 0.05194805194805195),
        ),
        (
            *(12, 0.3226320303884328, 0.3405837777154084, 0.09553724924723307, 0.5971078077952067),
            (0.6666666666666666, 0.16, 0.02666666666666667),
        ),
    ],
)
def test_agrees_with_published_code(seed, aji, aji_plus, pq, sq, f1):
    """PQ, SQ and F1 at .3, .5 and .7 are of StarDist 0.9.2 (`matching`); AJI and AJI+ are of
    HoVer-Net's metrics/stats_utils.py (vqdang/hover_net, commit 5847ebf). No pair has an IoU of
    exactly .5, which StarDist's PQ takes for a match."""
    table = instances.overlap_table(cells(seed, moved=14.0, missed=0.1), cells(seed))
    assert instances.aji(table) == pytest.approx(aji, abs=1e-12)
    assert instances.aji_plus(table) == pytest.approx(aji_plus, abs=1e-12)
    # StarDist's IoU are float32.
    quality = instances.panoptic_quality(table)
    assert quality == pytest.approx((pq, f1[1], sq), abs=1e-6)
    found = [instances.f1(table, threshold=threshold) for threshold in (0.3, 0.5, 0.7)]
    assert found == pytest.approx(f1, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_numbers_of_the_labels_do_not_matter(seed):
    truth = cells(seed)
    prediction = cells(seed, moved=14.0, missed=0.1)
    table = instances.overlap_table(prediction, truth)
    order = np.lexsort((table.iou, table.truth_index))
    same = np.diff(table.truth_index[order]) == 0
    # Labels only decide where a nucleus has two predictions of the same IoU.
    assert np.all(np.diff(table.iou[order])[same] > 0)
    rng = np.random.default_rng(seed)
    scores = scored(prediction, truth)
    for _ in range(5):
        names = [np.append(0, rng.choice(10**6, 41, replace=False) + 1) for _ in range(2)]
        renamed = scored(names[0][prediction], names[1][truth])
        assert renamed == pytest.approx(scores, abs=1e-12)


def test_crowded_assignment_is_best():
    truth = np.kron(np.arange(1, 37).reshape(6, 6), np.ones((4, 4), int))
    rng = np.random.default_rng(0)
    for _ in range(20):
        prediction = rng.integers(0, 30, (12, 12)).repeat(2, 0).repeat(2, 1)
        table = instances.overlap_table(prediction, truth)
        dense = np.zeros((36, len(table.prediction_labels)))
        dense[table.truth_index, table.prediction_index] = table.iou
        chosen = instances._assignment(table)
        assert len(np.unique(table.truth_index[chosen])) == len(chosen)
        assert len(np.unique(table.prediction_index[chosen])) == len(chosen)
        best = dense[scipy.optimize.linear_sum_assignment(dense, maximize=True)].sum()
        assert table.iou[chosen].sum() == pytest.approx(best)


def test_merged_nuclei_lie_mostly_in_one_prediction():
    truth = np.repeat(np.arange(1, 6), 4)[None]  # five nuclei of 4 px in a row
    none = instances.overlap_table(truth, truth)
    assert instances.merged(none) == 0
    # The first label takes two nuclei whole and half of the third, which is not most of it.
    prediction = np.array([[1] * 10 + [2] * 2 + [3] * 3 + [4] + [4] * 3 + [0]])
    assert instances.merged(instances.overlap_table(prediction, truth)) == pytest.approx(2 / 5)
    prediction[0, 10:] = 1
    assert instances.merged(instances.overlap_table(prediction, truth)) == 1
    assert instances.merged(instances.overlap_table(truth, 0 * truth)) == 0
    assert instances.merged(instances.overlap_table(0 * truth, truth)) == 0


def test_refusals():
    labels = np.zeros((2, 3), int)
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(3, 2\) cannot be compared"):
        instances.overlap_table(labels, labels.T)
    with pytest.raises(ValueError, match="the truth holds integer labels, not float64"):
        instances.overlap_table(labels, labels / 2)
    with pytest.raises(ValueError, match="the prediction holds integer labels, not bool"):
        instances.overlap_table(labels > 0, labels)
    with pytest.raises(ValueError, match="the prediction holds the label -4, where labels are 0"):
        instances.overlap_table(labels - 4, labels)
    table = instances.overlap_table(labels, labels)
    for threshold in (0.0, 1.1, np.nan):
        with pytest.raises(ValueError, match="is no IoU; give one above 0"):
            instances.f1(table, threshold=threshold)
