"""What came out of a trained stage or chain: its scores, summary.json and report.html."""

import pathlib
import platform
from collections.abc import Callable
from typing import Any

import flax
import jax
import numpy as np
import optax

from histojax import __version__, cli, processes
from histojax.cli import say
from histojax.config import read_config
from histojax.data import cores
from histojax.evaluation import scores
from histojax.imaging import writers
from histojax.inference import fitting
from histojax.report import pages
from histojax.runs import checkpoint, workdirs
from histojax.stages.base import segments


def summarize_stage(trained: workdirs.Run) -> dict[str, Any]:
    """Scores a stage's best checkpoint on its val split; writes summary.json and report.html."""
    with processes.first_alone() as fits:
        if fits and segments(trained.stage):
            fitting.fit_instances(trained)
    if trained.step == 0:
        say(f"{trained.config.name}: no step was better than what it started from, which it keeps")
    say(f"{trained.config.name}: scoring the val split")
    table = scores.score_workdir(trained.workdir)
    last = checkpoint.Series(trained.workdir / "checkpoints" / "last")
    summary = {
        "name": trained.config.name,
        "stage": trained.config.stage,
        "steps": last.steps()[-1],
        "checkpoint_step": trained.step,
        "seconds": last.meta()["seconds"],
        "parameters": {name: optax.tree.size(p) for name, p in trained.state.params.items()},
        **table,
        **circumstances(),
    }
    _write(summary, trained.workdir, pages.run_report)
    return summary


def summarize_chain(workdir: pathlib.Path, names: list[str], *, seconds: float) -> dict[str, Any]:
    """Scores all stages together; writes the chain's own summary.json and report.html."""
    stages: dict[str, dict[str, Any]] = {
        name: {"folder": name, "summary": read_config(workdir / name / "summary.json")}
        for name in names
    }
    path = workdir / "summary.json"
    if path.exists() and (summary := read_config(path)).get("stages") == stages:
        if processes.first() and not (workdir / "report.html").exists():
            pages.chain_report(workdir)
        say(f"everything is done: {workdir / 'report.html'}")
        return summary
    say("scoring every way from the low-resolution image to a mask")
    table = scores.score_workdir(workdir)
    summary = {
        "name": names[-1],
        "stages": stages,
        "seconds": seconds,
        "training_seconds": sum(stage["summary"]["seconds"] for stage in stages.values()),
        **table,
        **circumstances(),
    }
    _write(summary, workdir, pages.chain_report)
    return summary


def _write(
    summary: dict[str, Any], workdir: pathlib.Path, report: Callable[[pathlib.Path], Any]
) -> None:
    """Writes summary.json and the report; a run that is stopped in between makes that next time."""
    with processes.first_alone() as writes:
        if writes:
            (workdir / "report.html").unlink(missing_ok=True)
            writers.write_json(workdir / "summary.json", summary)
            report(workdir)


def circumstances() -> dict[str, Any]:
    """Command, hardware and versions that a number was made with."""
    devices = jax.devices()
    given = cli.repeatable()
    return {
        **({"command": given} if given else {}),
        "hardware": {
            "devices": len(devices),
            **({"processes": processes.count()} if processes.count() > 1 else {}),
            "kind": devices[0].device_kind,
            "platform": devices[0].platform,
            "host": platform.processor() or platform.machine(),
            "cores": len(cores.usable()),
        },
        "versions": {
            "histojax": __version__,
            "python": platform.python_version(),
            **{module.__name__: module.__version__ for module in (jax, flax, optax, np)},
        },
    }
