"""Training stages: pure functions over an explicit state.

A stage is a frozen dataclass, made by its module's `build_stage(config, initial)`:

    fields        the batch arrays it needs: "lr", "hr" uint8 (B, H, W, 3), "mask" (B, H, W) and
                  what else its segmenter's heads are named after, "labelled" (B, H, W) where it
                  learns from images without labels too, "tissue" uint8 (B, H, W, 3) where it
                  starts from that
    annotations   batch arrays that `evaluate` needs besides, int32 "instances" or none
    networks      name -> linen module
    inputs        (batch) -> name -> inputs, where a network takes more than one image
    init          (rng, batch) -> state
    train_step    (state, batch, *, axis_name) -> (state, metrics); a per-device program
    eval_step     (state, batch) -> arrays
    predict       (state, uint8 images) -> {"sr": uint8, head: map in [0, 1]} or one of them
    enhance       (state, uint8 lr) -> uint8 sr, where it has a generator
    segment       (state, uint8 image) -> its heads' maps (B, H, W, C), where it has a segmenter
    evaluate      on the host: (outputs, batch) -> {name: (sum, count)}, numbers or arrays
    palette_of    (source) -> what synthesis draws colours from, kept in checkpoints, where it
                  makes tissue
    best          (metric name, "max" | "min"): what picks the best checkpoint
    phases        ((step, what learns from there on), ...)
    adversarial_from  where it may have a discriminator: the step from which generator and
                  discriminator play against each other, None: never
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from histojax.errors import UserError

STAGES = ("generator", "segmentation", "srgan", "joint", "pyramid")


def build_stage(config: ConfigDict, initial: Mapping[str, Any]) -> Any:
    """The stage named `config.stage`, started from the given variables by network.

    Raises:
        UserError: for a stage or value that cannot be used.
    """
    if config.stage not in STAGES:
        raise UserError(f"stage={config.stage!r} is not known; choose one of {', '.join(STAGES)}")
    return importlib.import_module(f"histojax.stages.{config.stage}").build_stage(config, initial)
