"""A trained run, read back from its workdir."""

import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np
from jax.sharding import SingleDeviceSharding
from ml_collections import ConfigDict

from histojax.components.state import State, Tree
from histojax.config import from_values, read_config
from histojax.data.sources import targets
from histojax.errors import UserError
from histojax.runs import checkpoint
from histojax.stages import build_stage
from histojax.stages.base import Stage


@dataclasses.dataclass(frozen=True)
class Run:
    """What a workdir holds, with the config as it was trained.

    `state`, `step` and `meta` (thresholds, mpp_in, mpp_out, ...) are of the checkpoint; optimiser
    states and frozen networks are left out.
    """

    workdir: pathlib.Path
    config: ConfigDict
    stage: Stage
    state: State
    step: int
    meta: dict[str, Any]


def stage_folder(workdir: pathlib.Path) -> pathlib.Path:
    """The folder of the run that a workdir stands for: itself, or a chain's last stage.

    Raises:
        UserError: it is no workdir, or nothing is trained in it yet.
    """
    if (workdir / "checkpoints").is_dir():
        return workdir
    inner = workdir / read_config(workdir / "config.json")["name"]
    if not (inner / "checkpoints").is_dir():
        done = ", ".join(sorted(str(path.parent) for path in workdir.glob("*/summary.json")))
        raise UserError(
            f"the stage {inner.name} of {workdir} is not trained yet: finish it with histojax.main"
            + (f", or name one that is: {done}" if done else "")
        )
    return inner


def example_batch(config: ConfigDict, crop: int | None = None) -> dict[str, Any]:
    """One batch element of the shapes that a config trains on (or of another crop), all zeros."""
    crop, scale = crop or config.data.crop, config.data.scale
    images = {"lr": crop // scale, "hr": crop, targets.TISSUE: crop}
    maps = ("mask", "labelled", *targets.MAPS)
    return {
        **{name: np.zeros((1, side, side, 3), np.uint8) for name, side in images.items()},
        **{name: np.zeros((1, crop, crop), np.uint8) for name in maps},
        "instances": np.zeros((1, crop, crop), np.int32),
    }


def fresh_state(stage: Stage, config: ConfigDict) -> State:
    """A stage's state before its first step.

    Raises:
        UserError: its networks cannot be made as the config has them, or do not fit the crop or the
            variables that they start from.
    """
    try:
        return stage.init(jax.random.key(config.seed), example_batch(config))
    except (TypeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"{config.name}: its networks cannot be made: {reason}; mend the config's field"
        ) from error


def without_pretrained(config: ConfigDict) -> ConfigDict:
    """The config without the weights that only a run's first step reads, whose file may be gone."""
    if config.get("pretrained", {}).get("encoder", "none") == "none":
        return config
    config = config.copy_and_resolve_references()
    config.pretrained.encoder = "none"
    return config


def load(workdir: pathlib.Path) -> Run:
    """The best checkpoint of a workdir, of a stage or a chain (the last where no best is kept).

    Raises:
        UserError: there is none, it is damaged, or of another architecture.
    """
    folder = stage_folder(workdir)
    config = from_values(read_config(folder / "config.json"))
    if "features" in config.loss:
        # Only training reads feature distances, so their network is not needed here.
        config.loss.features.weight = 0.0
    stage = build_stage(without_pretrained(config), {})
    # Named explicitly, because a checkpoint of many devices is used on one as well.
    here = SingleDeviceSharding(jax.local_devices()[0])
    template = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here),
        jax.eval_shape(lambda: fresh_state(stage, config)),
    )
    restored = newest(folder).restore(template)
    if restored is None:
        raise UserError(f"{folder} holds no checkpoint yet; train it first with histojax.main")
    state = restored.state.replace(opt_state={})
    return Run(folder, config, stage, state, restored.step, restored.meta)


def newest(folder: pathlib.Path) -> checkpoint.Series:
    """The series to use of a stage's folder: the best where there is one, else the last."""
    best = checkpoint.Series(folder / "checkpoints" / "best")
    return best if best.steps() else checkpoint.Series(folder / "checkpoints" / "last")


def initial_variables(workdir: pathlib.Path) -> dict[str, Tree]:
    """Network -> variables of a run, averaged where it keeps them so; UserError as `load`."""
    run = load(workdir)
    return {name: run.state.variables(name, averaged=True) for name in run.state.params}
