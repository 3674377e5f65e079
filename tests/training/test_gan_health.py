import json

import pytest

from histojax.errors import UserError
from histojax.training import gan_health
from tests import tiny

LIMITS = gan_health.Limits(
    window=200,
    told_apart=0.99,
    confused=0.5,
    variance=(0.7, 1.5),
    detail=(-20.0, 6.0),
)
HEALTHY = {
    "real_above_fake": 0.7,
    "variance_enhanced": 0.036,
    "variance_real": 0.037,
}


def line(step, **changes):
    return {"step": step, "split": "train", **HEALTHY, **changes}


def told(rows, start=0):
    """(step, sentence) of everything that is told along the rows."""
    watch = gan_health.Watch(LIMITS, start=start)
    return [(row["step"], sentence) for row in rows for sentence in watch.see(row)]


def test_a_healthy_run_is_told_nothing():
    # As D does in a run that goes well: losing and winning by turns.
    shares = [0.63, 0.85, 0.58, 0.48, 0.94, 0.6]
    rows = [line(50 * (n + 1), real_above_fake=shares[n % 6]) for n in range(24)]
    assert told(rows) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"real_above_fake": 0.994}, ["put 99.4% of real patches", "wins so surely", "kind=r1"]),
        (
            {"real_above_fake": 0.5},
            ["put only 50.0% of real", "at random", "adversarial.discriminator_warmup"],
        ),
        ({"variance_enhanced": 0.0074}, ["varied 0.20 times", "going flat", "loss.pixel_weight"]),
        ({"variance_enhanced": 0.074}, ["varied 2.00 times", "run away", "adversarial.weight"]),
    ],
)
def test_each_sign_is_told_once_in_its_own_words(changes, words):
    rows = [line(50 * (n + 1), **changes) for n in range(10)]
    ((step, sentence),) = told(rows)
    assert step == 200  # a whole window, and not before
    assert sentence.startswith("over the last 200 steps, ")
    for word in words:
        assert word in sentence


@pytest.mark.parametrize(
    ("excess", "words"),
    [(7.25, ["7.2 dB more power", "checkerboard"]), (-25.0, ["25.0 dB less power", "blurred"])],
)
def test_the_power_of_fine_detail_is_looked_at_in_validation(excess, words):
    rows = [
        {"step": step, "split": "val", "power_spectrum_excess": excess} for step in (100, 300, 600)
    ]
    ((step, sentence),) = told(rows)
    assert step == 300
    for word in words:
        assert word in sentence


def test_nothing_is_told_before_both_have_played_for_a_window():
    rows = [line(50 * (n + 1), real_above_fake=1.0) for n in range(20)]
    ((step, _),) = told(rows, start=500)
    assert step == 700


def test_a_sign_that_went_away_and_came_back_is_told_again():
    def run(*shares):
        return [step for step, _ in told([line(200 * (n + 1), **s) for n, s in enumerate(shares)])]

    bad, good = {"variance_enhanced": 0.001}, {}
    assert run(bad, bad, good, good, bad, bad) == [200, 1000]
    # One better line lifts the mean for a window: that is no going away.
    shares = [1.0] * 4 + [0.9] + [1.0] * 8
    rows = [line(50 * (n + 1), real_above_fake=share) for n, share in enumerate(shares)]
    assert [step for step, _ in told(rows)] == [200]


def test_the_window_is_a_mean_and_one_bad_line_is_not_enough():
    rows = [line(50 * (n + 1), real_above_fake=1.0 if n % 2 else 0.9) for n in range(12)]
    assert told(rows) == []


def test_lines_without_a_value_say_nothing():
    rows = [line(50 * (n + 1), **dict.fromkeys(HEALTHY)) for n in range(8)]
    assert told(rows) == []
    assert told([{"step": 400, "split": "train", "loss": 1.0}]) == []


def test_going_on_from_the_lines_written_tells_nothing_twice():
    rows = [line(50 * (n + 1), real_above_fake=1.0) for n in range(12)]
    watch = gan_health.Watch(LIMITS, start=0)
    for row in json.loads(json.dumps(rows[:6])):
        watch.see(row)
    watch.see({"step": 300, "split": "warning", "text": "as it is written"})
    assert [watch.see(row) for row in rows[6:]] == [[]] * 6


def settings_for(**changes):
    config = tiny.config("srgan")
    config.update_from_flattened_dict(changes)
    return config


def test_the_window_is_of_whole_lines():
    made = gan_health.build_limits(settings_for(**{"collapse.window": 200, "log.every": 150}))
    assert made.window == 300
    assert made.variance == (0.7, 1.5)


def test_nothing_is_watched_without_adversarial_training():
    assert gan_health.build_limits(settings_for(**{"collapse.window": 0})) is None
    assert gan_health.build_limits(tiny.config("generator")) is None
    for changes in ({"learn_from_step.generator": -1}, {"loss.adversarial.weight": 0.0}):
        config = settings_for(**{"loss.features.weight": 0.0, **changes})
        stage, _, _ = tiny.built("srgan", config)
        assert gan_health.build_watch(config, stage) is None


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("window", -5, r"collapse\.window=-5 has to be a number of steps of 0 or more"),
        ("told_apart", 1.5, r"collapse\.told_apart=1\.5 has to be a number from 0 to 1"),
        ("confused", 1.0, r"collapse\.confused=1\.0 has to be below collapse\.told_apart=0\.99"),
        ("variance", (2.0, 1.0), r"collapse\.variance=\(2\.0, 1\.0\) has to be two numbers"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(field, value, message):
    with pytest.raises(UserError, match=message):
        gan_health.build_limits(settings_for(**{f"collapse.{field}": value}))
