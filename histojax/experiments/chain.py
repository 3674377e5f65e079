"""A config and the runs it starts from, trained in order; then the scores and the report.

`config.init_from` names, by network, the run that a stage starts from: a workdir, or the config of
an earlier stage, which is trained first in a folder of its own below the chain's workdir. A stage
that is done is not trained again.
"""

import contextlib
import pathlib
import sys
import time
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from histojax import files, processes
from histojax.cli import say
from histojax.config import claim_workdir, differences, from_values, read_config, to_values
from histojax.data import stain_matching
from histojax.errors import DiskError, UserError
from histojax.evaluation import words
from histojax.experiments import check, data, summary
from histojax.experiments.init_from import initial_variables
from histojax.imaging.resampling import check_scale
from histojax.report import pages
from histojax.runs import checkpoint, run_data, workdirs
from histojax.training import loop

# What every config has, whatever its stage.
FIELDS: tuple[str, ...] = ("name", "stage", "seed", "steps", "precision", "data", "init_from")
FIELDS += ("eval", "checkpoint", "log")


def run(config: ConfigDict, workdir: pathlib.Path) -> dict[str, Any]:
    """Trains what a config describes and everything it starts from; the summary of summary.json.

    A chain's stages get folders below the workdir, named as configs are.

    Raises:
        UserError: a failure that the user can mend.
        SystemExit: with status 0, where a signal stopped the run after its checkpoint.
    """
    try:
        ordered = stages_of(config)
        alone = len(ordered) == 1
        folders = {stage.name: workdir if alone else workdir / stage.name for stage in ordered}
        resumed = {
            name
            for name, folder in folders.items()
            if checkpoint.Series(folder / "checkpoints" / "last").steps()
        }
        kept = data.kept_splits(ordered, folders)
        check.rehearse(ordered, resumed, kept)
        known = data.study(ordered, folders, kept)
        for stage in ordered:
            # A run that goes on has the fit of its stain target, whose image may be gone.
            if stage.name not in resumed:
                stain_matching.build(stage)
        if alone:
            result = run_stage(config, workdir, {}, known[config.name])
        else:
            result = _run_stages(ordered, workdir, folders, known)
        if result and processes.first():
            print(words.after_training(result, workdir, synthesizes="pyramid" in config))
        return result
    except DiskError as error:
        if not (workdir / "config.json").exists():
            raise
        raise DiskError(
            f"{error}; what was saved before is whole, and the same command goes on from it"
        ) from error
    except loop.Stopped as stopped:
        say(str(stopped))
        sys.exit(0)


def _run_stages(
    ordered: list[ConfigDict],
    workdir: pathlib.Path,
    folders: Mapping[str, pathlib.Path],
    known: Mapping[str, run_data.Known],
) -> dict[str, Any]:
    """Trains the stages that are not done; the summary of them all."""
    started = time.perf_counter()
    names = [stage.name for stage in ordered]
    check_lengths(ordered, workdir)
    with _sole_use(workdir):
        begun = any((folder / run_data.MANIFEST).is_file() for folder in folders.values())
        whole = from_values({**to_values(ordered[-1]), "chain": names})
        if processes.first():
            claim_workdir(whole, workdir, same_data=begun)
        for stage in ordered:
            run_stage(stage, folders[stage.name], folders, known[stage.name])
        return summary.summarize_chain(workdir, names, seconds=time.perf_counter() - started)


def stages_of(config: ConfigDict) -> list[ConfigDict]:
    """The config and all that it starts from, earliest first, each name once.

    Raises:
        UserError: two different configs carry one name, or one lacks a field or has a scale factor
            that is not offered.
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


def check_lengths(ordered: list[ConfigDict], workdir: pathlib.Path) -> None:
    """Refuses to train a stage on after others have started from it, and names their folders."""
    stale: dict[str, str] = {}  # stage -> the lengthened stage that it stands on
    for stage in ordered:
        folder = workdir / stage.name
        if (folder / "summary.json").exists() and done(stage, folder) is None:
            stale[stage.name] = stage.name
        for start in stage.init_from.values():
            if isinstance(start, ConfigDict) and start.name in stale:
                stale[stage.name] = stale[start.name]
    trained = [
        name
        for name, start in stale.items()
        if name != start and (workdir / name / "checkpoints").is_dir()
    ]
    if trained:
        first = stale[trained[0]]
        folders = ", ".join(str(workdir / name) for name in trained)
        raise UserError(
            f"{first} would be trained further, but {', '.join(trained)} started from it as it "
            f"was: remove {folders} to train them again, use another --workdir, or take the new "
            f"length of {first} back"
        )


def done(config: ConfigDict, workdir: pathlib.Path) -> dict[str, Any] | None:
    """The summary of a stage that has all its steps, else None."""
    path = workdir / "summary.json"
    if not path.exists():
        return None
    found = read_config(path)
    return found if found.get("steps", 0) >= config.steps else None


def run_stage(
    config: ConfigDict,
    workdir: pathlib.Path,
    folders: Mapping[str, pathlib.Path],
    known: run_data.Known,
) -> dict[str, Any]:
    """Trains one stage unless it is done, and writes its summary.json and report.html."""
    with _sole_use(workdir):
        old = done(config, workdir)
        if old is not None:
            if processes.first():
                claim_workdir(config, workdir, same_data=True)
                if not (workdir / "report.html").exists():
                    pages.run_report(workdir)
            say(f"{config.name}: done at step {old['steps']}, in {workdir}")
            return old
        initial = initial_variables(config, lambda name: workdirs.initial_variables(folders[name]))
        trained = loop.train(config, workdir, initial, known=known)
        found = summary.summarize_stage(trained)
        if folders:  # one stage of several; the last lines of a command have the results of one
            for line in words.results(found):
                say(f"{config.name}: {line}")
        return found


def _sole_use(workdir: pathlib.Path) -> contextlib.AbstractContextManager[None]:
    """The workdir held by the one process that writes to it."""
    return files.sole_use(workdir) if processes.first() else contextlib.nullcontext()
