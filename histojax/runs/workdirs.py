"""A trained run, read back from its workdir, or from the one file of a model.

A place is the path of either. Commands take the name of a model in the box as well.
"""

import dataclasses
import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding
from ml_collections import ConfigDict

from histojax.cli import say
from histojax.components import trees
from histojax.components.state import State, Tree
from histojax.config import from_values, read_config
from histojax.data.sources import targets
from histojax.errors import UserError
from histojax.runs import checkpoint
from histojax.stages import build_stage
from histojax.stages.base import Stage
from histojax.zoo import model_file, registry


@dataclasses.dataclass(frozen=True)
class Run:
    """What a workdir or a model file holds, with the config as it was trained.

    `workdir` is its place; `state`, `step` and `meta` (thresholds, mpp_in, mpp_out, ...) are of the
    checkpoint; optimiser states and frozen networks are left out.
    """

    workdir: pathlib.Path
    config: ConfigDict
    stage: Stage
    state: State
    step: int
    meta: dict[str, Any]


def place_of(text: str) -> pathlib.Path:
    """The place that a flag or `init_from` names: a model in the box, a workdir or a model file.

    Raises:
        UserError: there is none of these.
    """
    path = pathlib.Path(text)
    if text in registry.entries():
        if path.exists():
            say(f"{text}: the model in the box is taken; ./{text} names what lies here")
        return registry.path_of(text)
    if text and path.exists():
        return path
    raise UserError(
        f"{text or 'an empty path'} is not a workdir, and no file: name the folder of a run, a "
        f"model file, or a model in the box ({', '.join(registry.entries()) or 'which is empty'})"
    )


def name_of(place: pathlib.Path) -> str:
    """What a user calls a place."""
    entry = registry.entry_of(place)
    return str(place) if entry is None else entry.name


def is_stage(place: pathlib.Path) -> bool:
    """Whether a place holds one trained stage, and not a chain."""
    return place.is_file() or (place / "checkpoints").is_dir()


def stage_folder(workdir: pathlib.Path) -> pathlib.Path:
    """The place of the run that a workdir stands for: itself, or a chain's last stage.

    Raises:
        UserError: it is no workdir, or nothing is trained in it yet.
    """
    if is_stage(workdir):
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
    """A stage's state before its first step, in float64 where the config computes in that.

    Raises:
        UserError: its networks cannot be made as the config has them, or do not fit the crop or the
            variables that they start from.
    """
    try:
        state = stage.init(jax.random.key(config.seed), example_batch(config))
    except (TypeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"{config.name}: its networks cannot be made: {reason}; "
            "change the network's fields, or data.crop"
        ) from error
    if config.precision != "float64":
        return state
    # Rounded to float32 at each step, weights would not show how alike the gradients are.
    double = jax.dtypes.canonicalize_dtype(np.float64)
    return jax.tree.map(
        lambda leaf: leaf.astype(double) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf,
        state,
    )


def without_pretrained(config: ConfigDict) -> ConfigDict:
    """The config without the weights that only a run's first step reads, whose file may be gone."""
    if config.get("pretrained", {}).get("encoder", "none") == "none":
        return config
    config = config.copy_and_resolve_references()
    config.pretrained.update(encoder="none", path="")
    return config


def load(workdir: pathlib.Path, *, say_licence: bool = True) -> Run:
    """The best checkpoint of a workdir, of a stage or a chain (the last where no best is kept).

    The licence of a model, and of the models that a run descends from, is said once.

    Raises:
        UserError: there is none, it is damaged, or of another architecture.
    """
    folder = stage_folder(workdir)
    config = config_of(folder)
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
    if folder.is_file():
        return _opened(folder, config, stage, template, say_licence)
    restored = newest(folder).restore(template)
    if restored is None:
        raise UserError(f"{folder} holds no checkpoint yet; train it first with histojax.main")
    state = restored.state.replace(opt_state={})
    models = restored.meta.get("data", {}).get("models", [])
    if models and say_licence:
        _say_licence(folder, model_file.licence_of(models))
    return Run(folder, config, stage, state, restored.step, restored.meta)


def used_networks(state: State) -> list[str]:
    """The networks of a state that are used once it is trained."""
    return [name for name in state.params if not name.startswith("discriminator")]


def _opened(
    path: pathlib.Path, config: ConfigDict, stage: Stage, template: State, say_licence: bool
) -> Run:
    """The run in a model file."""
    model = model_file.read(path)
    if say_licence:
        _say_licence(path, model.about.get("licence", ""))
    wanted = {name: template.variables(name) for name in used_networks(template)}
    trees.check_names(model.variables, wanted, path)
    variables = jax.tree.map(jax.numpy.asarray, model.variables)
    state = template.replace(
        step=jax.numpy.int32(model.about["step"]),
        params={name: found["params"] for name, found in variables.items()},
        statistics={n: {k: v for k, v in f.items() if k != "params"} for n, f in variables.items()},
        opt_state={},
        ema={},
        frozen={},
    )
    return Run(path, config, stage, state, model.about["step"], model.meta)


@functools.cache
def _say_licence(place: pathlib.Path, licence: str) -> None:
    under = licence or "no stated licence"
    say(f"{name_of(place)}: weights under {under}; for research, not for diagnosis")


def config_of(place: pathlib.Path) -> ConfigDict:
    """The config of a run, of a chain's last stage."""
    folder = stage_folder(place)
    if folder.is_file():
        return from_values(model_file.read(folder).config)
    return from_values(read_config(folder / "config.json"))


def step_of(folder: pathlib.Path) -> int:
    """The step of the checkpoint to use of a stage's folder, or of a model."""
    return model_file.read(folder).about["step"] if folder.is_file() else newest(folder).steps()[-1]


def newest(folder: pathlib.Path) -> checkpoint.Series:
    """The series to use of a stage's folder: the best where there is one, else the last."""
    best = checkpoint.Series(folder / "checkpoints" / "best")
    return best if best.steps() else checkpoint.Series(folder / "checkpoints" / "last")


def initial_variables(workdir: pathlib.Path) -> dict[str, Tree]:
    """Network -> variables of a run, averaged where it keeps them so; UserError as `load`."""
    run = load(workdir)
    return {name: run.state.variables(name, averaged=True) for name in run.state.params}
