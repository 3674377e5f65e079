"""Signs in a run's metrics that its adversarial training goes wrong, said in words.

Looked for in the lines of metrics.jsonl, from when generator and discriminator have played against
each other for a whole window of steps. A sign is told once, and again if it went away and came
back; the run goes on in any case.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from histojax.errors import UserError
from histojax.losses import adversarial
from histojax.stages.base import Stage

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Limits:
    """What still counts as healthy; fields of the config group `collapse`.

    Attributes:
        window: steps looked back on.
        told_apart: share of patches, at most, of which the discriminator puts the real one above
            the enhanced one.
        confused: the same share, at least.
        loss_factor: times that the discriminator's loss may be that of a coin.
        adversarial_share: of the generator's loss that the adversarial term may be.
        variance: (least, most) variance of the enhanced images, in that of the real ones.
        detail: (least, most) power of fine detail at validation beyond the real images', dB.
    """

    window: int
    told_apart: float
    confused: float
    loss_factor: float
    adversarial_share: float
    variance: tuple[float, float]
    detail: tuple[float, float]


def build_limits(config: ConfigDict) -> Limits | None:
    """The limits of the group `collapse`; None where there is none or its window is 0.

    Raises:
        UserError: for a value out of its range.
    """
    group = config.get("collapse")
    if group is None or group.window == 0:
        return None
    if group.window < 0:
        raise UserError(f"collapse.window={group.window} has to be a number of steps, 0 or more")
    if not 0 <= group.confused < group.told_apart <= 1:
        raise UserError(
            f"collapse.confused={group.confused} and collapse.told_apart={group.told_apart} have "
            "to be shares between 0 and 1, the first the smaller"
        )
    for name in ("variance", "detail"):
        if len(group[name]) != 2 or not group[name][0] < group[name][1]:
            raise UserError(f"collapse.{name}={group[name]} has to be two numbers, the least first")
    # Whole lines of metrics.jsonl, which are means over log.every steps.
    window = math.ceil(group.window / config.log.every) * config.log.every
    return Limits(
        window=window,
        told_apart=group.told_apart,
        confused=group.confused,
        loss_factor=group.loss_factor,
        adversarial_share=group.adversarial_share,
        variance=tuple(group.variance),
        detail=tuple(group.detail),
    )


def signs(rows: Sequence[Row], limits: Limits, *, start: int, coin: float) -> dict[str, str | None]:
    """What the lines up to the last one show.

    Args:
        rows: lines of metrics.jsonl, at least those of the last window.
        limits: what counts as healthy.
        start: step from which generator and discriminator play against each other.
        coin: loss of a discriminator that judges all patches alike.

    Returns:
        Sign -> a sentence that says what is wrong and what to try, None where all is well; signs
        that the last line cannot tell of are left out.
    """
    step, split = rows[-1]["step"], rows[-1]["split"]
    if step - limits.window < start:
        return {}
    lines = [row for row in rows if row["split"] == split and row["step"] > step - limits.window]
    if split == "val":
        return _of_detail(_mean(lines[-1:], "power_spectrum_excess"), limits)
    over = f"over the last {limits.window} steps"
    return {
        **_of_share(_mean(lines, "real_above_fake"), limits, over),
        **_of_loss(_mean(lines, "loss_discriminator"), limits, over, coin),
        **_of_weight(_mean(lines, "loss_adversarial"), _mean(lines, "loss"), limits, over),
        **_of_variance(
            _mean(lines, "variance_enhanced"), _mean(lines, "variance_real"), limits, over
        ),
    }


def _mean(rows: Sequence[Row], name: str) -> float:
    """Mean of a metric over lines that have it, NaN where none has."""
    values = [row[name] for row in rows if row.get(name) is not None]
    return sum(values) / len(values) if values else math.nan


def _of_share(share: float, limits: Limits, over: str) -> dict[str, str | None]:
    if math.isnan(share):
        return {}
    apart = confused = None
    if share >= limits.told_apart:
        apart = (
            f"{over}, the discriminator put {share:.1%} of real patches above their enhanced "
            f"versions (collapse.told_apart={limits.told_apart}): it wins so surely that its "
            "gradient says little; lower discriminator_optimizer.learning_rate, or hold it back "
            "with loss.adversarial.penalty.kind=r1"
        )
    if share <= limits.confused:
        confused = (
            f"{over}, the discriminator put only {share:.1%} of real patches above their enhanced "
            f"versions (collapse.confused={limits.confused}), where a coin would put half: unless "
            "the images are that good it pushes the generator at random; if it knew more before, "
            "lower discriminator_optimizer.learning_rate, else raise it or "
            "loss.adversarial.discriminator_warmup"
        )
    return {"told apart": apart, "confused": confused}


def _of_loss(loss: float, limits: Limits, over: str, coin: float) -> dict[str, str | None]:
    if math.isnan(loss):
        return {}
    factor = loss / coin
    sentence = None
    if factor >= limits.loss_factor:
        sentence = (
            f"{over}, the discriminator's loss was {loss:.3g}, {factor:.1f} times that of a coin "
            f"(collapse.loss_factor={limits.loss_factor}): it overshoots instead of learning; "
            "lower discriminator_optimizer.learning_rate, or set loss.adversarial.penalty.kind=r1"
        )
    return {"overshooting": sentence}


def _of_weight(term: float, loss: float, limits: Limits, over: str) -> dict[str, str | None]:
    if math.isnan(term) or not loss > 0:
        return {}
    sentence = None
    if term / loss >= limits.adversarial_share:
        sentence = (
            f"{over}, {term / loss:.1%} of the generator's loss was its adversarial term "
            f"(collapse.adversarial_share={limits.adversarial_share}): likeness to the real image "
            "no longer counts; lower loss.adversarial.weight"
        )
    return {"outweighing": sentence}


def _of_variance(enhanced: float, real: float, limits: Limits, over: str) -> dict[str, str | None]:
    if math.isnan(enhanced) or not real > 0:
        return {}
    ratio, (least, most) = enhanced / real, limits.variance
    flat = wild = None
    said = f"{over}, the enhanced images varied {ratio:.2f} times as much as the real ones"
    remedy = "lower loss.adversarial.weight, or raise loss.pixel_weight"
    if ratio <= least:
        flat = f"{said} (collapse.variance from {least}): they are going flat; {remedy}"
    if ratio >= most:
        wild = f"{said} (collapse.variance to {most}): colours and contrast run away; {remedy}"
    return {"flat": flat, "wild": wild}


def _of_detail(excess: float, limits: Limits) -> dict[str, str | None]:
    if math.isnan(excess):
        return {}
    least, most = limits.detail
    blurred = noisy = None
    if excess <= least:
        blurred = (
            f"at validation, fine detail had {-excess:.1f} dB less power than in the real images "
            f"(collapse.detail from {least}): they are blurred; see whether the generator's "
            "gradient_norm is 0, and lower optimizer.learning_rate"
        )
    if excess >= most:
        noisy = (
            f"at validation, fine detail had {excess:.1f} dB more power than in the real images "
            f"(collapse.detail to {most}): noise or a checkerboard; lower "
            "loss.adversarial.weight, or lower discriminator_optimizer.learning_rate"
        )
    return {"blurred": blurred, "noisy": noisy}


class Watch:
    """Which signs were told, from line to line."""

    def __init__(self, limits: Limits, *, start: int, coin: float):
        """Limits, start and coin as `signs` takes them."""
        self._limits, self._start, self._coin = limits, start, coin
        self._rows: list[Row] = []
        self._last: dict[str, int] = {}  # sign told and not gone -> step at which it was last seen

    def see(self, row: Row) -> list[str]:
        """Takes the next line of metrics.jsonl; what is to be told now."""
        step, window = row["step"], self._limits.window
        self._rows = [old for old in self._rows if old["step"] > step - window] + [row]
        told = []
        found = signs(self._rows, self._limits, start=self._start, coin=self._coin)
        for sign, sentence in found.items():
            if sentence is not None:
                if sign not in self._last:
                    told.append(sentence)
                self._last[sign] = step
            # A single better line lifts the mean for a window: that alone is no going away.
            elif step - self._last.get(sign, step) > window:
                del self._last[sign]
        return told


def build_watch(config: ConfigDict, stage: Stage) -> Watch | None:
    """A watch over a stage's run; None where nothing plays against anything, or none is wanted.

    Raises:
        UserError: for a value out of its range.
    """
    limits = build_limits(config)
    start = stage.adversarial_from() if limits is not None else None
    if start is None:
        return None
    coin = adversarial.undecided_loss(config.loss.adversarial.kind)
    return Watch(limits, start=start, coin=coin)
