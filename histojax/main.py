"""Trains what a config describes, after the earlier stages that it starts from.

    python -m histojax.main --config=configs/joint.py:smoke

trains each stage in a folder of its own below the workdir, and writes summary.json and report.html
there. The same command again resumes where the last one stopped.

The size follows the config file: smoke (a minute or two, a try), laptop (minutes on two cores; the
default), gpu (full size, one accelerator or more) or paper (as the source has it).

--config.FIELD=VALUE sets a field. The common ones are

    --config.data.source=SPEC            synthetic (default), folder:ROOT or a prepared set
    --config.data.scale=4                2, 3, 4 or 8
    --config.data.crop=128               side of training crops, px
    --config.data.batch_size=8
    --config.steps=3000                  of a chain's earlier stages: --config.lengths.STAGE=3000
    --config.optimizer.learning_rate=1e-4
    --config.seed=0
    --config.precision=float32           auto (default), float32 or bfloat16
    --config.init_from.NETWORK=FOLDER    a trained run, in place of the stage that is trained first
"""

import functools
import pathlib
from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from histojax import cli
from histojax.errors import UserError

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file and size, such as configs/joint.py:gpu."
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run. Default: runs/<config>[-<size>], such as runs/joint-gpu."
)


def main(argv: Sequence[str], stage: str | None = None) -> None:
    """Trains what the flags name; with `stage`, configs of that stage alone."""
    del argv
    config, file = _CONFIG.value, config_flags.get_config_filename(flags.FLAGS["config"])
    if stage is not None and config.get("stage") != stage:
        raise UserError(
            f"--config={file} is of stage {config.get('stage')!r}, and histojax.stages.{stage} "
            f"trains stage {stage!r} alone; use histojax.main, which trains any"
        )
    # After flags, so that --help and bad flags answer at once.
    from histojax.experiments import chain

    cli.set_up_jax(together=True)
    cli.keep_freed_memory()
    chain.run(config, pathlib.Path(_WORKDIR.value or cli.default_workdir(file)))


def run(stage: str | None = None) -> None:
    """The entry point, also of `python -m histojax.stages.<stage>`."""
    flags.mark_flag_as_required("config")
    cli.run(functools.partial(main, stage=stage))


if __name__ == "__main__":
    run()
