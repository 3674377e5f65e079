"""Signs in a run's metrics that its adversarial training goes wrong, as sentences.

They are read from metrics.jsonl, once generator and discriminator have played against each other
for a whole window of steps. A sign is reported once, and again if it went away and came back. The
run goes on in any case.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from histojax.checks import check, number, pair, whole
from histojax.errors import UserError
from histojax.stages.base import Stage

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Limits:
    """What still counts as healthy; fields of the config group `collapse`.

    Attributes:
        window: steps over which metrics are averaged.
        told_apart, confused: largest and least share of patches of which the discriminator puts the
            real one above the enhanced one.
        variance: (least, most) variance of the enhanced images, in that of the real ones.
        detail: (least, most) power of fine detail at validation beyond the real images', dB.
    """

    window: int
    told_apart: float
    confused: float
    variance: tuple[float, float]
    detail: tuple[float, float]


RULES = {
    "window": whole(0, of="a number of steps"),
    "told_apart": number(0, 1),
    "confused": number(0, 1),
    "variance": pair(number()),
    "detail": pair(number()),
}


def build_limits(config: ConfigDict) -> Limits | None:
    """The limits of group `collapse`, None without one or with window=0; UserError: a bad value."""
    group = config.get("collapse")
    if group is None or group.window == 0:
        return None
    check(group, RULES, "collapse.")
    if group.confused >= group.told_apart:
        raise UserError(
            f"collapse.confused={group.confused} has to be below "
            f"collapse.told_apart={group.told_apart}"
        )
    # Whole lines of metrics.jsonl, which are means over log.every steps.
    window = math.ceil(group.window / config.log.every) * config.log.every
    return Limits(**{**group.to_dict(), "window": window})


def signs(rows: Sequence[Row], limits: Limits, *, start: int) -> dict[str, str | None]:
    """What the lines up to the last one show, as {sign: a sentence with a remedy, or None}.

    Signs that the last line cannot show are left out. `rows` are the lines of metrics.jsonl, at
    least those of the last window; `start` is the step from which generator and discriminator play
    against each other.
    """
    step, split = rows[-1]["step"], rows[-1]["split"]
    if step - limits.window < start:
        return {}
    lines = [row for row in rows if row["split"] == split and row["step"] > step - limits.window]
    return {
        sign: sentence if broken else None
        for sign, (value, broken, sentence) in _judged(lines, limits).items()
        if not math.isnan(value)
    }


def _mean(rows: Sequence[Row], name: str) -> float:
    """Mean of a metric over lines that have it, NaN where none has."""
    values = [row[name] for row in rows if row.get(name) is not None]
    return sum(values) / len(values) if values else math.nan


def _judged(lines: Sequence[Row], limits: Limits) -> dict[str, tuple[float, bool, str]]:
    """Sign -> (value, NaN where the lines have none, whether it is not healthy, sentence)."""
    share = _mean(lines, "real_above_fake")
    real = _mean(lines, "variance_real")
    varied = _mean(lines, "variance_enhanced") / real if real > 0 else math.nan
    excess = _mean(lines[-1:], "power_spectrum_excess")  # of validation
    over = f"over the last {limits.window} steps"
    (flat, wild), (blurred, noisy) = limits.variance, limits.detail
    variance = f"{over}, the enhanced images varied {varied:.2f} times as much as the real ones"
    remedy = "lower loss.adversarial.weight, or raise loss.pixel_weight"
    slower = "lower discriminator_optimizer.learning_rate"
    return {
        "told apart": (
            share,
            share >= limits.told_apart,
            f"{over}, the discriminator put {share:.1%} of real patches above their enhanced "
            f"versions (collapse.told_apart={limits.told_apart}): it wins so surely that its "
            f"gradient says little; {slower}, or set loss.adversarial.penalty.kind=r1",
        ),
        "confused": (
            share,
            share <= limits.confused,
            f"{over}, the discriminator put only {share:.1%} of real patches above their enhanced "
            f"versions (collapse.confused={limits.confused}), where a coin would put half: unless "
            "the images are that good it pushes the generator at random; if it knew more before, "
            f"{slower}, else raise it or loss.adversarial.discriminator_warmup",
        ),
        "flat": (
            varied,
            varied <= flat,
            f"{variance} (collapse.variance from {flat}): they are going flat; {remedy}",
        ),
        "wild": (
            varied,
            varied >= wild,
            f"{variance} (collapse.variance to {wild}): colours and contrast run away; {remedy}",
        ),
        "blurred": (
            excess,
            excess <= blurred,
            f"at validation, fine detail had {-excess:.1f} dB less power than in the real images "
            f"(collapse.detail from {blurred}): they are blurred; see whether the generator's "
            "gradient_norm is 0, and lower optimizer.learning_rate",
        ),
        "noisy": (
            excess,
            excess >= noisy,
            f"at validation, fine detail had {excess:.1f} dB more power than in the real images "
            f"(collapse.detail to {noisy}): noise or a checkerboard; lower "
            f"loss.adversarial.weight, or {slower}",
        ),
    }


class Watch:
    """Which signs were reported, from line to line."""

    def __init__(self, limits: Limits, *, start: int):
        """Limits and start as `signs` takes them."""
        self._limits, self._start = limits, start
        self._rows: list[Row] = []
        self._last: dict[str, int] = {}  # reported sign -> step at which it was last seen

    def see(self, row: Row) -> list[str]:
        """Takes the next line of metrics.jsonl; the sentences to report now."""
        step, window = row["step"], self._limits.window
        self._rows = [old for old in self._rows if old["step"] > step - window] + [row]
        new = []
        found = signs(self._rows, self._limits, start=self._start)
        for sign, sentence in found.items():
            if sentence is not None:
                if sign not in self._last:
                    new.append(sentence)
                self._last[sign] = step
            # One better line lifts the mean for a window, which does not end a sign.
            elif step - self._last.get(sign, step) > window:
                del self._last[sign]
        return new


def build_watch(config: ConfigDict, stage: Stage) -> Watch | None:
    """A watch over a stage's run; None without adversarial training, or with a window of 0."""
    limits, start = build_limits(config), stage.adversarial_from()
    if limits is None or start is None:
        return None
    return Watch(limits, start=start)
