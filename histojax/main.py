"""Trains what a config describes: `python -m histojax.main --config=configs/joint.py`.

A config that starts from earlier stages trains them first, each in a folder of its own below the
workdir. The same command again goes on where the last one stopped.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from histojax import cli
from histojax.errors import UserError

_CONFIG = config_flags.DEFINE_config_file("config", None, "FILE[:SIZE], e.g. configs/joint.py:gpu.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; runs/<config>[-<size>].")


def default_workdir(config_flag: str) -> pathlib.Path:
    """runs/<config>[-<size>] for a --config=FILE[:SIZE]."""
    path, _, size = config_flag.partition(":")
    name = pathlib.Path(path).stem
    return pathlib.Path("runs") / (f"{name}-{size}" if size else name)


def main(argv: Sequence[str], stage: str | None = None) -> None:
    """Trains what the flags name; with `stage`, configs of that stage alone."""
    del argv
    config = _CONFIG.value
    if stage is not None and config.get("stage") != stage:
        raise UserError(
            f"--config={flags.FLAGS['config'].config_filename} is of stage "
            f"{config.get('stage')!r}, and histojax.stages.{stage} trains stage {stage!r} alone; "
            "use histojax.main, which trains any"
        )
    # After flags, so that --help and bad flags answer at once.
    from histojax.experiments import chain

    cli.set_up_jax()
    cli.keep_freed_memory()
    workdir = pathlib.Path(_WORKDIR.value or default_workdir(flags.FLAGS["config"].config_filename))
    chain.run(config, workdir)


def run(stage: str | None = None) -> None:
    """The entry point, also of `python -m histojax.stages.<stage>`."""
    flags.mark_flag_as_required("config")
    cli.run(functools.partial(main, stage=stage))


if __name__ == "__main__":
    run()
