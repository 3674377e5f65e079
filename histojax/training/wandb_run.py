"""A run mirrored to Weights & Biases; nothing else imports it.

metrics.jsonl stays the record. A failure after training has begun (the network, a full quota) is
reported in one line, and the run continues without W&B.
"""

import pathlib
import secrets
from collections.abc import Mapping

from ml_collections import ConfigDict

from histojax import files
from histojax.cli import say
from histojax.config import to_values
from histojax.errors import UserError

# Kept in the workdir, so that a restarted run goes on in the same W&B run.
ID_FILE = "wandb_id.txt"
# Seconds that an unreachable server may hold up the start and the end of a stage.
_PATIENCE = 60


class WandbRun:
    """The W&B run of a workdir."""

    def __init__(self, config: ConfigDict, workdir: pathlib.Path):
        """Starts the run, or goes on with the one that the workdir, which exists, names.

        Raises:
            UserError: W&B takes no such run (nobody is logged in, a project name it refuses).
        """
        import wandb

        path = workdir / ID_FILE
        if not path.exists():
            with files.atomic_path(path) as part:
                part.write_text(secrets.token_hex(4) + "\n", encoding="utf-8")
        chosen = config.log.wandb
        self._run = None
        try:
            self._run = wandb.init(
                project=chosen.project,
                entity=chosen.entity or None,
                mode=chosen.mode,
                id=path.read_text(encoding="utf-8").strip(),
                resume="allow",
                name="/".join(workdir.resolve().parts[-2:]),
                dir=str(workdir),
                config=to_values(config),
                allow_val_change=True,  # a run that goes on may have been given more steps
                settings=wandb.Settings(
                    silent=True,
                    console="off",  # progress is a line that rewrites itself
                    init_timeout=_PATIENCE,
                    finish_timeout=_PATIENCE,
                ),
            )
            # W&B drops what is logged at a step below its own counter, as a run that goes on from
            # a checkpoint does; as a value like others, the step may go back.
            self._run.define_metric("*", step_metric="step")
        except wandb.errors.UsageError as error:
            raise UserError(
                f"log.wandb.project={chosen.project}: Weights & Biases refused the run "
                f"({_first_line(error)}); run `wandb login`, mend log.wandb, or set "
                "log.wandb.mode=offline"
            ) from error
        except Exception as error:  # whatever it is, training needs none of it
            self._give_up(error)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Logs the finite values of a line, named "<split>/<name>"."""
        self._tell("log", {"step": step, **values})

    def close(self) -> None:
        """Waits, but not for long, until what is logged has been sent."""
        self._tell("finish")

    def _tell(self, method: str, *given: Mapping[str, float]) -> None:
        if self._run is None:
            return
        try:
            getattr(self._run, method)(*given)
        except Exception as error:  # as above
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._run = None
        say(
            f"Weights & Biases failed ({_first_line(error)}); going on without it, metrics.jsonl "
            "has everything"
        )


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().partition("\n")[0].rstrip(".")
