import itertools

import numpy as np
import pytest
import scipy.ndimage

from histojax.inference import scale
from histojax.inference.scale import Agreement, Estimate, Window
from tests import tiny

TISSUE, NUCLEUS = (230, 190, 215), (90, 60, 150)


class Image:
    """An array as a reader."""

    def __init__(self, pixels):
        self.pixels, (self.height, self.width) = pixels, pixels.shape[:2]

    def read(self, y, x, height, width):
        return self.pixels[y : y + height, x : x + width].copy()


def discs(diameters, *, pitch=40, size=400, seed=0):
    """Discs on a jittered grid, their diameters in turn, px."""
    rng = np.random.default_rng(seed)
    image = np.full((size, size, 3), TISSUE, np.uint8)
    y, x = np.mgrid[:size, :size]
    middles = itertools.product(range(pitch // 2, size, pitch), repeat=2)
    for place, diameter in zip(middles, itertools.cycle(diameters), strict=False):
        a, b = place + rng.uniform(-1, 1, 2)
        image[(y - a) ** 2 + (x - b) ** 2 <= (diameter / 2) ** 2] = NUCLEUS
    return Image(image)


def dark(window):
    """All that is dark: what finds nuclei of every size."""
    assert window.dtype == np.uint8
    assert window.shape[0] == 1
    return scipy.ndimage.label(window[0, ..., 0] < 160)[0].astype(np.int32)


def estimate(image, diameter=20.0):
    return scale.judged(scale.ladder(dark, image), diameter)


@pytest.mark.parametrize("diameter", [12, 24, 48])
def test_discs_have_their_diameter(diameter):
    found = estimate(discs([diameter], pitch=2 * diameter))
    assert found.sure, found.reason
    assert found.diameter == pytest.approx(diameter, rel=0.05)
    assert found.low <= found.diameter / 1.15
    assert found.high >= found.diameter * 1.15


def test_the_same_again_and_twice_as_large_at_twice_the_size():
    image = discs([18, 20, 22])
    first, second = estimate(image), estimate(image)
    assert first == second
    double = Image(np.repeat(np.repeat(image.pixels, 2, 0), 2, 1))
    assert estimate(double).diameter == pytest.approx(2 * first.diameter, rel=0.05)


def test_quarters_lie_within_the_interval():
    image = discs([14, 16, 18, 20, 22, 24, 26], pitch=32, size=600)
    whole = estimate(image)
    for y in (0, 300):
        for x in (0, 300):
            quarter = estimate(Image(image.pixels[y : y + 300, x : x + 300]))
            assert quarter.sure
            assert whole.low <= quarter.diameter <= whole.high


def test_nothing_is_told_where_there_are_no_nuclei():
    rng = np.random.default_rng(0)
    glass = Image(np.clip(rng.normal(245, 3, (300, 300, 3)), 0, 255).astype(np.uint8))
    stroma = discs([0])
    for image, reason in (
        (glass, "none of 36 places in it shows tissue"),
        (stroma, "no nuclei are found in it"),
    ):
        found = estimate(image)
        assert (found.diameter, found.nuclei, found.sure) == (None, 0, False)
        assert found.reason == reason


def test_few_nuclei_are_no_ground_to_act_on():
    image = discs([24], pitch=200)  # four
    found = estimate(image)
    assert not found.sure
    assert found.nuclei <= 4
    assert "of 10 needed" in found.reason


def test_two_sizes_are_named():
    found = estimate(discs([12, 36]))
    assert not found.sure
    assert "two sizes, 12 and 36 px" in found.reason


@pytest.mark.parametrize(("diameter", "trained", "size"), [(4, 40.0, 200), (120, 10.0, 1200)])
def test_sizes_beyond_the_ladder_are_outside(diameter, trained, size):
    # A network for 40 px sees 4 px at 19 px on the last two rungs.
    found = estimate(discs([diameter], pitch=3 * diameter // 2, size=size), trained)
    assert not found.sure
    assert "outside the range of" in found.reason


def test_sizes_that_follow_the_rung_are_not_believed():
    # Crumbs: as large at the network on every rung, and seldom the same on two.
    factors = [2 ** (step / 2 - 2.75) for step in range(11)]
    crumbs = [Agreement(f, np.full(50, 25 / f), 0.5, 0.1) for f in factors]
    crumbs[5] = Agreement(factors[5], np.full(50, 25 / factors[5]), 0.7, 0.1)
    found = scale.judged(crumbs, 20.0)
    assert not found.sure
    assert "neighbouring scales" in found.reason


def test_a_second_answer_is_named():
    factors = [2 ** (step / 2 - 2.75) for step in range(11)]
    sizes = [80.0] * 5 + [20.0] * 6
    pairs = [Agreement(f, np.full(50, d), 0.9, 0.1) for f, d in zip(factors, sizes, strict=True)]
    found = scale.judged(pairs, 20.0)
    assert not found.sure
    assert "other scales find nuclei of" in found.reason


def test_agreement_counts_whole_nuclei_by_their_overlap():
    fine = np.zeros((20, 20), np.int32)
    fine[2:6, 2:6] = 1  # found on both
    fine[10:14, 10:14] = 2  # the other has half of it
    fine[0:3, 12:16] = 3  # cut
    coarse = np.zeros((20, 20), np.int32)
    coarse[2:6, 2:6] = 7
    coarse[10:14, 10:12] = 8
    coarse[0:3, 12:16] = 9
    place = (0.0, 0.0, 10.0, 10.0)  # half a px of the image each
    found = scale.agreement([Window(coarse, place)], [Window(fine, place)], 1.5)
    assert found.factor == 1.5
    np.testing.assert_allclose(found.diameters, [2 * np.sqrt(4 / np.pi)])
    assert found.f1 == 0.5  # one of two on either side
    assert found.cover == pytest.approx(16 / 18**2)  # of what lies inside the border


def test_agreement_looks_at_the_same_place_of_both_rungs():
    # The fine window is the middle quarter of the coarse one, at twice its pixels.
    coarse = np.zeros((40, 40), np.int32)
    coarse[14:20, 16:22] = 1
    middle = coarse[10:30, 10:30]
    fine = np.repeat(np.repeat(middle, 2, 0), 2, 1)
    windows = [Window(coarse, (0, 0, 40, 40))], [Window(fine, (10, 10, 20, 20))]
    found = scale.agreement(*windows, 1.0)
    assert found.f1 == 1
    np.testing.assert_allclose(found.diameters, [2 * np.sqrt(36 / np.pi)])


def test_a_normal_spread_is_one_group():
    rng = np.random.default_rng(0)
    assert scale.two_groups(np.exp(rng.normal(3, 0.3, 300))) is None
    assert scale.two_groups(np.array([20.0])) is None
    both = np.exp(np.concatenate([rng.normal(2.5, 0.1, 50), rng.normal(3.5, 0.1, 50)]))
    np.testing.assert_allclose(scale.two_groups(both), np.exp([2.5, 3.5]), rtol=0.05)


def field(diameter, nuclei=40, sure=True):
    sure = sure and diameter is not None
    low, high = (0.0, 0.0) if diameter is None else (diameter / 1.2, diameter * 1.2)
    return Estimate(diameter, low, high, nuclei, sure, "")


def test_fields_that_agree_tell_one_size():
    # The field of 60 px has too few nuclei to count beside them.
    found = scale.agreed([field(20, 30), field(22, 60), field(60, 4, sure=False), field(None, 0)])
    assert found.sure
    assert found.diameter == 21  # the median over fields
    assert (found.low, found.high) == (20 / 1.2, 22 * 1.2)
    assert (found.nuclei, found.reason) == (90, "2 of 4 fields agree on it")


def test_fields_that_differ_tell_none():
    found = scale.agreed([field(20), field(40)])
    assert not found.sure
    assert found.reason == "the fields differ, from 20 to 40 px"


def test_one_field_of_three_may_differ_where_it_is_of_the_same_scale():
    fields = {"a": field(20, 30), "b": field(21, 30), "c": field(32, 40), "d": field(None, 0)}
    found = scale.agreed(list(fields.values()))
    assert (found.diameter, found.nuclei, found.sure) == (21, 60, True)
    assert (found.low, found.high) == (20 / 1.2, 21 * 1.2)
    # It is sure of its own, and what is unsure goes by the others.
    assert scale.shared(fields) == dict.fromkeys("abd", found) | {"c": fields["c"]}
    # Told by 9 nuclei, it is not.
    fields["c"] = field(32, 9, sure=False)
    assert set(scale.shared(fields).values()) == {found}
    # 42 px is twice 21 px, as in an image of another scale.
    assert not scale.agreed([*fields.values(), field(20), field(42)]).sure
    fields = {"a": field(20), "b": field(40), "c": field(None)}
    assert scale.shared(fields) == fields


def test_many_nuclei_of_one_field_do_not_outvote_the_others():
    # A lymph node beside two fields of tumour.
    fields = [field(21, 10), field(22, 10), field(24, 300)]
    assert scale.agreed(fields).diameter == 22


def test_small_fields_tell_it_together():
    few = [field(size, 5, sure=False) for size in (20, 21, 19)]
    found = scale.agreed(few)
    assert found.sure
    assert found.diameter == 20
    assert not scale.agreed(few[:2]).sure  # two fields
    assert not scale.agreed([field(20, 3, sure=False)] * 3).sure  # 9 nuclei, of 12
    # An interval of 50 to 72 px does not hold it, with a quarter of the nuclei, then two fifths.
    assert scale.agreed([*few, field(60, 5, sure=False)]).sure
    assert not scale.agreed([*few, field(60, 5, sure=False), field(60, 5, sure=False)]).sure
    # Two fields of more nuclei do not decide alone.
    assert scale.agreed([*few, field(20, 8, sure=False), field(21, 8, sure=False)]).nuclei == 31
    none = scale.agreed([field(None, 0, sure=False)])
    assert (none.diameter, none.sure) == (None, False)


def test_a_run_that_knows_no_size_says_so():
    found = scale.estimator(tiny.run("use_net"))(discs([24]))
    assert (found.diameter, found.sure) == (None, False)
    assert found.reason == "the run does not know the size of its training nuclei"


def test_a_runs_own_segmenter_is_asked(monkeypatch):
    run = tiny.run("use_net")
    run.meta["nucleus_diameter"] = 20.0
    monkeypatch.setattr(scale, "LADDER", (0.5, 1.0))
    monkeypatch.setattr(scale, "_SIDE", 64)
    seen = []
    monkeypatch.setattr(
        scale.labeling,
        "find",
        lambda run, maps, parameters: (
            seen.append({head: values.shape for head, values in maps.items()})
            or scale.labeling.Found(None, np.zeros((64, 64), np.int32))
        ),
    )
    assert scale.estimator(run)(discs([24], size=200)).reason == "no nuclei are found in it"
    assert seen[0] == dict.fromkeys(("mask", "marker", "distance"), (64, 64, 1))
    # The windows of half the size show all of the image, so there is one for all places.
    assert len(seen) <= 8


def test_a_nucleus_counts_once_where_windows_overlap():
    labels = np.zeros((20, 20), np.int32)
    labels[4:8, 4:8] = 1
    first = Window(labels, (0.0, 0.0, 20.0, 20.0))
    # Three px further down, with another nucleus that the first window shows in part.
    labels = np.zeros((20, 20), np.int32)
    labels[1:5, 4:8] = 1
    labels[15:19, 4:8] = 2
    second = Window(labels, (3.0, 0.0, 20.0, 20.0))
    for windows, nuclei in (([first], 1), ([first, first], 1), ([first, second], 1)):
        assert len(scale.agreement(windows, windows, 1.0).diameters) == nuclei
    assert len(scale.agreement([second], [second], 1.0).diameters) == 2


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (20, 20)])
def test_small_images_are_not_sure(shape):
    assert not estimate(Image(np.full((*shape, 3), 120, np.uint8))).sure
