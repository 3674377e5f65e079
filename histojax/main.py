"""Trains what a config describes: `python -m histojax.main --config=configs/joint.py`.

A config that starts from earlier stages trains them first, each in a folder of its own below the
workdir. The same command again goes on where the last one stopped.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from histojax import cli

_CONFIG = config_flags.DEFINE_config_file("config", None, "FILE[:SIZE], e.g. configs/joint.py:gpu.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; runs/<config>[-<size>].")


def default_workdir(config_flag: str) -> pathlib.Path:
    """runs/<config>[-<size>] for a --config=FILE[:SIZE]."""
    path, _, size = config_flag.partition(":")
    name = pathlib.Path(path).stem
    return pathlib.Path("runs") / (f"{name}-{size}" if size else name)


def main(argv: Sequence[str]) -> None:
    """Parses flags and runs."""
    del argv
    from histojax.experiments import (
        chain,  # after flags, so that --help and bad flags answer at once
    )

    cli.set_up_jax()
    cli.keep_freed_memory()
    workdir = pathlib.Path(_WORKDIR.value or default_workdir(flags.FLAGS["config"].config_filename))
    chain.run(_CONFIG.value, workdir)


def run() -> None:
    """The entry point, also of `python -m histojax.stages.<stage>`."""
    flags.mark_flag_as_required("config")
    cli.run(main)


if __name__ == "__main__":
    run()
