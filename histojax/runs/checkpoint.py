"""Checkpoints: state, data position and meta (config, thresholds, scales) in one composite.

A workdir keeps two series, checkpoints/last (to go on from; the one before is kept too) and
checkpoints/best (to use). Orbax writes under another name and renames, so a kill leaves no half
checkpoint under a final name. A damaged one is passed over, with a warning, for the one before.
Several processes write one together; each reads by itself, on whatever devices it has.
"""

import contextlib
import dataclasses
import functools
import os
import pathlib
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from histojax import files, processes
from histojax.components import trees
from histojax.config import FORMAT, check_format
from histojax.errors import UserError

Tree = Any


@dataclasses.dataclass(frozen=True)
class Restored:
    """A checkpoint as read back; `data` is the input pipeline's position."""

    step: int
    state: Tree
    data: Any
    meta: dict[str, Any]


class Series:
    """The checkpoints of one folder, the newest `keep` of them.

    `background`: whether `save` returns while they are written. What the disk then refuses is
    raised by the next `save`, by `wait` or by `close`.
    """

    def __init__(self, folder: pathlib.Path, *, keep: int = 2, background: bool = False):
        self.folder = folder.absolute()
        self.keep = keep
        self._background = background
        if background:
            _quiet_writing_threads()
        self._written: int | None = None  # the step that may still be being written

    @functools.cached_property
    def _manager(self) -> ocp.CheckpointManager:
        self.folder.mkdir(parents=True, exist_ok=True)
        together = processes.count() > 1
        options = ocp.CheckpointManagerOptions(
            max_to_keep=self.keep,
            enable_async_checkpointing=self._background,
            create=False,
            # What a killed run left of a checkpoint takes space and is of no use.
            cleanup_tmp_directories=True,
            # Named, processes wait for each other through the runtime's store and not by a
            # collective, which a background thread would run between those of training steps.
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                active_processes=set(range(processes.count())) if together else None,
                barrier_sync_key_prefix=self.folder.name if together else None,
            ),
        )
        return ocp.CheckpointManager(self.folder, options=options)

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(int(p.name) for p in self.folder.iterdir() if p.name.isdigit())

    def save(self, step: int, state: Tree, *, data: Any, meta: Mapping[str, Any]) -> None:
        """Writes the checkpoint of a step and drops the oldest beyond `keep`.

        Checkpoints of this step or later, left by a run that has since gone back, are replaced.

        Raises:
            DiskError: the disk will not take it, or what was saved before; earlier checkpoints
                stay.
        """
        self.wait()
        state = _storable(state)
        if self._background and jax.default_backend() == "cpu":
            # Orbax would read the buffers themselves, which the next step is given to write in.
            state = jax.tree.map(jnp.copy, state)
        with self._refusals(step):
            manager = self._manager
            (steps, *_) = processes.gather(self.steps())
            for later in [s for s in steps if s >= step]:
                manager.delete(later)
            manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    data=ocp.args.JsonSave({"position": data}),
                    meta=ocp.args.JsonSave({"format": FORMAT, **meta}),
                ),
                force=True,
            )
            self._written = step if self._background else None

    def wait(self) -> None:
        """Waits until what was saved is written; DiskError as `save`."""
        step, self._written = self._written, None
        if step is not None:
            with self._refusals(step):
                self._manager.wait_until_finished()

    @contextlib.contextmanager
    def _refusals(self, step: int) -> Iterator[None]:
        """Turns what the disk refuses into a DiskError, and leaves no half checkpoint."""
        verbosity = logging.get_verbosity()
        # Orbax's writing threads log their traceback before the error gets here. TensorStore's
        # other writes find the event loop closed, some of them after this block.
        logging.set_verbosity(logging.FATAL)
        hook = sys.unraisablehook
        sys.unraisablehook = functools.partial(_unless_closed_loop, hook)
        try:
            yield
        except (OSError, ValueError) as error:
            # TensorStore's errors are ValueErrors that carry the system's number.
            code = re.search(r"os_error_code='(\d+)'", str(error))
            if code is not None:
                reason = os.strerror(int(code[1]))
            elif isinstance(error, OSError):
                reason = error.strerror or str(error)
            else:
                raise
            # Threads that still write may leave some of it, which the next run clears away.
            for part in [*self.folder.glob(f"{step}.*")] * 10:
                shutil.rmtree(part, ignore_errors=True)
                if part.exists():
                    time.sleep(0.05)
            raise files.refused(self.folder / str(step), reason) from error
        else:
            sys.unraisablehook = hook
        finally:
            logging.set_verbosity(verbosity)

    def restore(self, template: Tree) -> Restored | None:
        """The newest checkpoint that can be read; None if there is none.

        The state has the structure, dtypes and shardings of `template`, a tree of arrays.

        Raises:
            UserError: the checkpoint is of another architecture (every missing and extra name is
                listed) or every checkpoint is damaged.
        """
        restored = self._newest(lambda step: self._read(step, template))
        if restored is None and self.steps():
            raise UserError(
                f"no checkpoint in {self.folder} can be read (steps {self.steps()} are damaged); "
                "remove the folder to start this run afresh"
            )
        return restored

    def meta(self) -> dict[str, Any]:
        """The meta of the newest readable checkpoint; UserError if there is none."""
        found = self._newest(lambda step: self._json(step, "meta"))
        if found is None:
            raise UserError(
                f"{self.folder} holds no checkpoint; train the run first, with the command that "
                "made its folder"
            )
        return found

    def _newest(self, read: Callable[[int], Any]) -> Any:
        """What `read` makes of the newest step that is not damaged; None if there is none."""
        for step in reversed(self.steps()):
            try:
                return read(step)
            except UserError:
                raise
            except Exception as error:  # orbax raises many kinds for damaged files
                reason = (str(error) or type(error).__name__).partition("\n")[0]
                words = "checkpoint %s of step %d is damaged (%s); using the one before"
                logging.warning(words, self.folder, step, reason)
        return None

    def _json(self, step: int, item: str) -> Any:
        options = _by_itself()
        handler = ocp.JsonCheckpointHandler(multiprocessing_options=options)
        with ocp.Checkpointer(handler, multiprocessing_options=options) as reader:
            return reader.restore(self.folder / str(step) / item)

    def _read(self, step: int, template: Tree) -> Restored:
        meta = self._json(step, "meta")
        check_format(meta["format"], f"{self.folder}/{step}")
        place = self.folder / str(step) / "state"
        wanted = _storable(template)
        with ocp.StandardCheckpointer(multiprocessing_options=_by_itself()) as reader:
            stored = ocp.StandardCheckpointHandler().metadata(place).tree
            if not trees.named(stored):
                raise ValueError("its list of arrays cannot be read")
            trees.check_names(stored, wanted, place)
            state = reader.restore(place, jax.tree.map(_abstract, wanted))
        data = self._json(step, "data")["position"]
        return Restored(step, _usable(state, template), data, meta)

    def close(self) -> None:
        """Waits as `wait` does, and ends the manager, if one was opened."""
        self.wait()
        if "_manager" in vars(self):
            self._manager.close()


def _by_itself() -> ocp.options.MultiprocessingOptions:
    """What lets a process read without the others, which may have other things to do."""
    if processes.count() == 1:
        return ocp.options.MultiprocessingOptions()
    own = processes.index()
    return ocp.options.MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"process{own}"
    )


@functools.cache
def _quiet_writing_threads() -> None:
    """Drops what is logged of an error of Orbax's threads before it comes here, as `_refusals`."""
    sys.unraisablehook = functools.partial(_unless_closed_loop, sys.unraisablehook)
    logging.get_absl_logger().addFilter(
        lambda record: record.levelname != "ERROR" or "orbax" not in record.pathname
    )


def _unless_closed_loop(hook: Callable[[Any], None], unraisable: Any) -> None:
    if str(unraisable.exc_value) != "Event loop is closed":
        hook(unraisable)


def _is_key(x: Any) -> bool:
    return hasattr(x, "dtype") and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)


def _storable(tree: Tree) -> Tree:
    """Typed PRNG keys as their numbers; everything else as it is."""

    def forth(x: Any) -> Any:
        if not _is_key(x):
            return x
        if isinstance(x, jax.ShapeDtypeStruct):
            numbers = jax.eval_shape(jax.random.key_data, x)
            return jax.ShapeDtypeStruct(numbers.shape, numbers.dtype, sharding=x.sharding)
        return jax.random.key_data(x)

    return jax.tree.map(forth, tree)


def _usable(stored: Tree, template: Tree) -> Tree:
    """The inverse of `_storable`, into the template's structure."""
    return jax.tree.map(
        lambda like, value: jax.random.wrap_key_data(value) if _is_key(like) else value,
        template,
        stored,
    )


def _abstract(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=getattr(x, "sharding", None))
