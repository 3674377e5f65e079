"""What is checked before anything is trained, so that a bad value costs seconds and not hours."""

import logging
from collections.abc import Callable, Mapping, Set
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from histojax.components import scales
from histojax.components.state import State, Tree
from histojax.data import pipeline, stain_matching
from histojax.data.example import example_spec
from histojax.data.registration import check_registration
from histojax.errors import UserError
from histojax.experiments.init_from import config_of, initial_variables
from histojax.runs import run_data, workdirs
from histojax.stages import build_stage
from histojax.stages.base import Stage
from histojax.training import loop
from histojax.training.validation import crop_step, fitting_crop

_log = logging.getLogger(__name__)


def rehearse(
    ordered: list[ConfigDict],
    resumed: Set[str] = frozenset(),
    kept: Mapping[str, run_data.Kept | None] | None = None,
) -> None:
    """Goes through all stages, earliest first, by shape alone, and through their data.

    `resumed` names the stages that resume from a checkpoint; `kept` has their splits.

    Raises:
        UserError: a config value that a stage refuses, a run that it cannot start from, or data
            that it cannot train on.
    """
    shapes: dict[str, dict[str, Tree]] = {}
    registered: set[tuple[Any, ...]] = set()
    for config in ordered:
        loop.check(config, jax.device_count())
        stain_matching.check(config)
        check_stain_of_start(config)
        check_scales_below(config)
        own = workdirs.without_pretrained(config) if config.name in resumed else config
        stage = build_stage(own, initial_variables(config, shapes.__getitem__))
        state = jax.eval_shape(lambda s=stage, c=config: workdirs.fresh_state(s, c))
        _check_data(config, stage, registered, (kept or {}).get(config.name))
        _check_steps(config, stage, state)
        shapes[config.name] = {
            name: jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), state.variables(name))
            for name in state.params
        }


def _check_data(
    config: ConfigDict,
    stage: Stage,
    registered: set[tuple[Any, ...]],
    kept: run_data.Kept | None,
) -> None:
    """Opens both splits; `registered` names those whose pairs were checked for an earlier stage."""
    for split in ("train", "val"):
        crop = config.data.crop
        source = run_data.open_split(config, split, fields=stage.fields, crop=crop, kept=kept)
        wanted = stage.fields if split == "train" else (*stage.fields, *stage.annotations)
        spec = example_spec(source, config.data, wanted, augment=split == "train")
        if "lr" in spec.stored and config.get("generator", {}).get("anchor") and split == "train":
            words = (
                "%s: generator.anchor=%g keeps the colors of real lr images; 0 learns those of hr"
            )
            _log.warning(words, config.name, config.generator.anchor)
        if "pyramid" in config:
            scales.check_classes(config, source.classes)
        if split == "train":
            pipeline.check_placement(spec, config.data)
        images = (config.data.source, config.data.data_dir, config.seed, split)
        if "lr" in stage.fields and images not in registered:
            check_registration(source, config.data.scale, config.data.max_shift)
            registered.add(images)


def _check_steps(config: ConfigDict, stage: Stage, state: State) -> None:
    """Takes a training and an evaluation step by shape."""
    step = crop_step(stage, config.data.scale)
    crop = fitting_crop(config.eval.crop, config.eval.crop, step=step)
    takes: tuple[tuple[str, Callable[..., Any], int], ...] = (
        (f"data.crop={config.data.crop}", stage.train_step, config.data.crop),
        (f"eval.crop={config.eval.crop}", stage.eval_step, crop),
    )
    for field, take, side in takes:
        batch = workdirs.example_batch(config, side)
        try:
            jax.eval_shape(take, state, {name: batch[name] for name in stage.fields})
        except (TypeError, ValueError) as error:
            raise UserError(f"{config.name}: {field}: {error}") from error


def check_stain_of_start(config: ConfigDict) -> None:
    """Refuses a segmenter that starts from one which reads other colours (stain normalisation)."""
    if not config.init_from.get("segmenter"):
        return
    start = config_of(config.init_from.segmenter)
    own, other = config.data.stain.method, start.data.stain.method
    if other != own:
        raise UserError(
            f"{config.name} starts from the segmenter of {start.name}, which reads images "
            f"normalised by {other!r}, and reads them by {own!r} itself: set data.stain.method "
            "alike in both"
        )


def check_scales_below(config: ConfigDict) -> None:
    """Refuses a scale of a pyramid without those below it, made for the same labels and crops."""
    if "pyramid" not in config:
        return
    own = config.pyramid
    if not config.init_from.get("pyramid"):
        if len(own.sizes) > 1 and not own.together:
            raise UserError(
                f"{config.name} learns the scale of {own.sizes[-1]} px alone, and "
                "init_from.pyramid names no run of those below it: name one, or set "
                "pyramid.together=True"
            )
        return
    start = config_of(config.init_from.pyramid)
    if "pyramid" not in start:
        raise UserError(
            f"init_from.pyramid={start.name} is a run of stage {start.stage}: name one of a pyramid"
        )

    def kept(stage: ConfigDict, sizes: tuple[int, ...]) -> tuple[Any, ...]:
        group, base = stage.pyramid, scales.check_base(stage)
        return sizes, group.labels, group.classes, base, stage.data.crop

    made = kept(start, tuple(start.pyramid.sizes))
    wanted = kept(config, tuple(own.sizes) if own.together else tuple(own.sizes)[:-1])
    if made != wanted:
        raise UserError(
            f"{config.name} needs scales of (sizes, labels, classes, base, data.crop) {wanted} "
            f"below it, and {start.name} has {made}: make them alike"
        )
