"""A config and the runs it starts from, trained in order; then the scores and the report.

`config.init_from` names, by network, the run that a stage starts from: a workdir, or the config of
an earlier stage, which is trained first in a folder of its own below the chain's workdir. A stage
that is done is not trained again.
"""

from __future__ import annotations

import contextlib
import pathlib
import platform
import sys
import time
from collections.abc import Callable, Mapping, Set
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from histojax import __version__, cli, files
from histojax.cli import say
from histojax.components import scales
from histojax.config import claim_workdir, differences, from_values, read_config, to_values
from histojax.data import cores, pipeline, stain_matching
from histojax.data.example import example_spec
from histojax.data.registration import check_registration
from histojax.errors import DiskError, UserError
from histojax.evaluation import scores, words
from histojax.imaging import writers
from histojax.imaging.resampling import check_scale
from histojax.inference import fitting
from histojax.report import run as report
from histojax.runs import checkpoint, run_data, workdirs
from histojax.stages import build_stage
from histojax.stages.base import segments
from histojax.training import loop
from histojax.training.validation import crop_step, fitting_crop

Tree = Any
# What every config has, whatever its stage.
FIELDS = (
    "name",
    "stage",
    "seed",
    "steps",
    "precision",
    "data",
    "eval",
    "checkpoint",
    "log",
    "init_from",
)


def run(config: ConfigDict, workdir: pathlib.Path) -> dict[str, Any]:
    """Trains what a config describes and everything it starts from.

    Args:
        config: with `init_from`: network -> workdir (str) or config of an earlier stage.
        workdir: the run's folder; a chain's stages get folders below it, named as configs are.

    Returns:
        The summary that summary.json holds.

    Raises:
        UserError: for a failure that the user can mend.
        SystemExit: with status 0, when a signal stopped the run after its checkpoint was written.
    """
    try:
        ordered = stages_of(config)
        begun = set()
        for stage in ordered:
            folder = workdir if len(ordered) == 1 else workdir / stage.name
            if checkpoint.Series(folder / "checkpoints" / "last").steps():
                begun.add(stage.name)
        rehearse(ordered, begun)
        for stage in ordered:
            # A run that goes on has the fit of its stain target, whose image may be gone.
            if stage.name not in begun:
                stain_matching.build(stage)
        if len(ordered) == 1:
            return _with_words(run_stage(config, workdir, {}), workdir)
        started = time.perf_counter()
        names = [stage.name for stage in ordered]
        whole = from_values({**to_values(config), "chain": names})
        check_lengths(ordered, workdir)
        with _sole_use(workdir):
            claim_workdir(whole, workdir)
            for stage in ordered:
                run_stage(stage, workdir / stage.name, {n: workdir / n for n in names})
            seconds = time.perf_counter() - started
            return _with_words(summarise_chain(workdir, names, seconds=seconds), workdir)
    except DiskError as error:
        if not (workdir / "config.json").exists():
            raise
        raise DiskError(
            f"{error}; what was saved before is whole, and the same command goes on from it"
        ) from error
    except loop.Stopped as stopped:
        say(str(stopped))
        sys.exit(0)


def _with_words(summary: dict[str, Any], workdir: pathlib.Path) -> dict[str, Any]:
    """The summary, after its last words; processes but the first have none."""
    if summary:
        print(words.after_training(summary, workdir))
    return summary


def stages_of(config: ConfigDict) -> list[ConfigDict]:
    """The config and all that it starts from, earliest first, each name once.

    Raises:
        UserError: if two different configs carry one name, or one lacks a field or has a scale
            factor that is not offered.
    """
    found: dict[str, ConfigDict] = {}

    def visit(stage: ConfigDict) -> None:
        missing = [field for field in FIELDS if field not in stage]
        if missing:
            raise UserError(
                f"the config {stage.get('name', '')!r} lacks the field {missing[0]}; start from "
                "one of those in configs/"
            )
        # First of all, because other fields follow from it.
        check_scale(stage.data.scale)
        for start in stage.init_from.values():
            if isinstance(start, ConfigDict):
                visit(start)
        known = found.setdefault(stage.name, stage)
        different = differences(to_values(known), to_values(stage))
        if different:
            raise UserError(
                f"two stages of this chain are called {stage.name!r} but differ in "
                f"{'; '.join(different)}; give them different names"
            )

    visit(config)
    return list(found.values())


def rehearse(ordered: list[ConfigDict], begun: Set[str] = frozenset()) -> None:
    """Goes through all stages by shape alone, so that a bad value costs seconds and not hours.

    Args:
        ordered: configs of the stages, earliest first.
        begun: names of those that go on from a checkpoint.

    Raises:
        UserError: for a config value that a stage refuses, a run that it cannot start from, or
            data that it cannot train on.
    """
    shapes: dict[str, dict[str, Tree]] = {}
    registered: set[tuple[Any, ...]] = set()

    def variables_of(start: ConfigDict | str) -> dict[str, Tree]:
        if isinstance(start, ConfigDict):
            return shapes[start.name]
        return workdirs.initial_variables(pathlib.Path(start))

    for config in ordered:
        loop.check(config, jax.device_count())
        stain_matching.check(config)
        check_stain_of_starts(config)
        check_scales_below(config)
        own = workdirs.without_pretrained(config) if config.name in begun else config
        stage = build_stage(own, initial_variables(config, variables_of))
        state = jax.eval_shape(lambda s=stage, c=config: workdirs.fresh_state(s, c))
        for split in ("train", "val"):
            source = run_data.open_split(config, split, fields=stage.fields, crop=config.data.crop)
            wanted = stage.fields if split == "train" else (*stage.fields, *stage.annotations)
            spec = example_spec(source, config.data, wanted, augment=split == "train")
            if "pyramid" in config:
                scales.check_classes(config, source.classes)
            if split == "train":
                pipeline.check_placement(spec, config.data)
            images = (config.data.source, config.data.data_dir, config.seed, split)
            if "lr" in stage.fields and images not in registered:
                check_registration(source, config.data.scale, config.data.max_shift)
                registered.add(images)
        batch = workdirs.example_batch(config)
        try:
            jax.eval_shape(stage.train_step, state, {name: batch[name] for name in stage.fields})
        except (TypeError, ValueError) as error:
            raise UserError(f"{config.name}: data.crop={config.data.crop}: {error}") from error
        step = crop_step(stage, config.data.scale)
        crop = fitting_crop(config.eval.crop, config.eval.crop, step=step)
        batch = workdirs.example_batch(config, crop)
        try:
            jax.eval_shape(stage.eval_step, state, {name: batch[name] for name in stage.fields})
        except (TypeError, ValueError) as error:
            raise UserError(f"{config.name}: eval.crop={config.eval.crop}: {error}") from error
        shapes[config.name] = {
            name: jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), state.variables(name))
            for name in state.params
        }


def check_stain_of_starts(config: ConfigDict) -> None:
    """Checks that a segmenter goes on with images in the colours that it was trained on.

    Raises:
        UserError: if the run that it starts from has other stain normalisation.
    """
    own = stain_matching.method_of(config)
    start = config.init_from.get("segmenter")
    if not start:
        return
    if not isinstance(start, ConfigDict):
        folder = workdirs.stage_folder(pathlib.Path(start))
        start = from_values(read_config(folder / "config.json"))
    other = stain_matching.method_of(start)
    if other != own:
        raise UserError(
            f"{config.name} starts from the segmenter of {start.name}, which reads images "
            f"normalised by {other!r}, and reads them by {own!r} itself: set data.stain.method "
            "alike in both"
        )


def check_scales_below(config: ConfigDict) -> None:
    """Checks that a scale of a pyramid has those below it, made for the same labels and crops.

    Raises:
        UserError: if not.
    """
    if "pyramid" not in config:
        return
    own, start = config.pyramid, config.init_from.get("pyramid")
    if not start:
        if len(own.sizes) > 1 and not own.together:
            raise UserError(
                f"{config.name} learns the scale of {own.sizes[-1]} px alone, and "
                "init_from.pyramid names no run of those below it: name one, or set "
                "pyramid.together=True"
            )
        return
    if not isinstance(start, ConfigDict):
        folder = workdirs.stage_folder(pathlib.Path(start))
        start = from_values(read_config(folder / "config.json"))
    if "pyramid" not in start:
        raise UserError(
            f"init_from.pyramid={start.name} is a run of stage {start.stage}: name one of a pyramid"
        )
    needed = tuple(own.sizes) if own.together else tuple(own.sizes)[:-1]
    made = (
        tuple(start.pyramid.sizes),
        start.pyramid.labels,
        start.pyramid.classes,
        scales.check_base(start),
        start.data.crop,
    )
    wanted = (needed, own.labels, own.classes, scales.check_base(config), config.data.crop)
    if made != wanted:
        raise UserError(
            f"{config.name} needs scales of (sizes, labels, classes, start, data.crop) {wanted} "
            f"below it, and {start.name} has {made}: make them alike"
        )


def check_lengths(ordered: list[ConfigDict], workdir: pathlib.Path) -> None:
    """Checks that no stage would be trained on after others have started from it.

    Raises:
        UserError: if so, with the folders that would have to be trained again.
    """
    stale: dict[str, str] = {}  # stage -> the lengthened stage that it stands on
    for stage in ordered:
        folder = workdir / stage.name
        if (folder / "summary.json").exists() and done(stage, folder) is None:
            stale[stage.name] = stage.name
        for start in stage.init_from.values():
            if isinstance(start, ConfigDict) and start.name in stale:
                stale[stage.name] = stale[start.name]
    begun = [
        name
        for name, start in stale.items()
        if name != start and (workdir / name / "checkpoints").is_dir()
    ]
    if begun:
        first = stale[begun[0]]
        folders = ", ".join(str(workdir / name) for name in begun)
        raise UserError(
            f"{first} would be trained further, but {', '.join(begun)} started from it as it was: "
            f"remove {folders} to have them trained anew, use another --workdir, or take the new "
            f"length of {first} back"
        )


def done(config: ConfigDict, workdir: pathlib.Path) -> dict[str, Any] | None:
    """The summary of a stage that has all its steps, else None."""
    path = workdir / "summary.json"
    if not path.exists():
        return None
    summary = read_config(path)
    return summary if summary.get("steps", 0) >= config.steps else None


def run_stage(
    config: ConfigDict, workdir: pathlib.Path, folders: Mapping[str, pathlib.Path]
) -> dict[str, Any]:
    """Trains one stage unless it is done, and writes its summary.json and report.html."""
    with _sole_use(workdir):
        return _run_stage(config, workdir, folders)


def _sole_use(workdir: pathlib.Path) -> contextlib.AbstractContextManager[None]:
    """The workdir held by the one process that writes to it."""
    return files.sole_use(workdir) if jax.process_index() == 0 else contextlib.nullcontext()


def _run_stage(
    config: ConfigDict, workdir: pathlib.Path, folders: Mapping[str, pathlib.Path]
) -> dict[str, Any]:
    summary = done(config, workdir)
    if summary is not None:
        claim_workdir(config, workdir)
        say(f"{config.name}: done at step {summary['steps']}, in {workdir}")
        if jax.process_index() == 0 and not (workdir / "report.html").exists():
            report.run_report(workdir)
        return summary
    initial = initial_variables(
        config,
        lambda start: workdirs.initial_variables(
            folders[start.name] if isinstance(start, ConfigDict) else pathlib.Path(start)
        ),
    )
    trained = loop.train(config, workdir, initial)
    if jax.process_index() != 0:
        return {}
    return summarise_stage(trained)


def initial_variables(
    config: ConfigDict, variables_of: Callable[[ConfigDict | str], Mapping[str, Tree]]
) -> dict[str, Tree]:
    """Network -> variables, from the runs that `init_from` names; `variables_of` reads one.

    The run named for the generator also gives its discriminator, where it has one, and that named
    for the pyramid all its networks. A named run that lacks the network is refused.
    """
    initial: dict[str, Tree] = {}
    for network, start in config.init_from.items():
        if not start:
            continue
        variables = variables_of(start)
        if network == "pyramid":
            # All that the scales below have, by the names of their networks.
            initial |= variables
            continue
        if network not in variables:
            name = start.name if isinstance(start, ConfigDict) else start
            raise UserError(
                f"init_from.{network}={name} holds no {network}, but {', '.join(variables)}; name "
                "a run that trains one"
            )
        initial[network] = variables[network]
        if network == "generator" and "discriminator" in variables:
            initial["discriminator"] = variables["discriminator"]
    return initial


def summarise_stage(trained: workdirs.Run) -> dict[str, Any]:
    """Scores a stage's best checkpoint on its val split; writes summary.json and report.html."""
    if segments(trained.stage):
        fitting.fit_instances(trained)
    say(f"{trained.config.name}: scoring the val split")
    table = scores.score_workdir(trained.workdir)
    last = checkpoint.Series(trained.workdir / "checkpoints" / "last")
    summary = {
        "name": trained.config.name,
        "stage": trained.config.stage,
        "steps": last.steps()[-1],
        "checkpoint_step": trained.step,
        "seconds": last.meta()["seconds"],
        "parameters": {
            name: sum(leaf.size for leaf in jax.tree.leaves(params))
            for name, params in trained.state.params.items()
        },
        **table,
        **circumstances(),
    }
    # The report is made of the summary: an older one goes first, so that a run that is stopped
    # between the two makes it the next time.
    (trained.workdir / "report.html").unlink(missing_ok=True)
    writers.write_json(trained.workdir / "summary.json", summary)
    place = report.run_report(trained.workdir)
    say(f"{trained.config.name}: {place}")
    return summary


def summarise_chain(workdir: pathlib.Path, names: list[str], *, seconds: float) -> dict[str, Any]:
    """The table over all stages, with the chain's own summary.json and report.html."""
    if jax.process_index() != 0:
        return {}
    stages = {
        name: {"folder": name, "summary": read_config(workdir / name / "summary.json")}
        for name in names
    }
    path = workdir / "summary.json"
    if path.exists() and read_config(path).get("stages") == stages:
        if not (workdir / "report.html").exists():
            report.chain_report(workdir)
        say(f"everything is done: {workdir / 'report.html'}")
        return read_config(path)
    say("scoring every way from the low-resolution image to a mask")
    table = scores.score_workdir(workdir)
    trained = sum(stage["summary"]["seconds"] for stage in stages.values())
    summary = {
        "name": names[-1],
        "stages": stages,
        "seconds": seconds,
        "training_seconds": trained,
        **table,
        **circumstances(),
    }
    (workdir / "report.html").unlink(missing_ok=True)
    writers.write_json(path, summary)
    say(str(report.chain_report(workdir)))
    return summary


def circumstances() -> dict[str, Any]:
    """Command, hardware and versions that a number was made with."""
    import flax
    import numpy
    import optax

    devices = jax.devices()
    given = cli.repeatable()
    return {
        **({"command": given} if given else {}),
        "hardware": {
            "devices": len(devices),
            "kind": devices[0].device_kind,
            "platform": devices[0].platform,
            "host": platform.processor() or platform.machine(),
            "cores": len(cores.usable()),
        },
        "versions": {
            "histojax": __version__,
            "python": platform.python_version(),
            "jax": jax.__version__,
            "flax": flax.__version__,
            "optax": optax.__version__,
            "numpy": numpy.__version__,
        },
    }
