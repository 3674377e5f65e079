"""Batches of crops for training and evaluation.

A batch is a dict of the fields asked for, of B crops each:

    "hr" uint8 (B, crop, crop, 3)     "lr" uint8 (B, crop/r, crop/r, 3)
    "mask" uint8 (B, crop, crop)      "instances" int32 (B, crop, crop)
    "labelled" uint8 (B, crop, crop)

On the host, grain maps image indices to augmented crops in threads or worker processes. On the
device, the whole set lies in the accelerator's memory and one jitted function makes a batch from an
integer. Both streams are pure functions of (seed, position), so the position resumes either.
"""

import contextlib
import dataclasses
import errno
import functools
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from histojax import checks
from histojax.checks import one_of, whole
from histojax.data import augmentation, cores
from histojax.data import degradation as degradation_lib
from histojax.data.device_batches import Batches, DeviceBatches, load_store
from histojax.data.example import ExampleSpec, cut, example_spec, finish, read_checked
from histojax.data.sources.base import Source
from histojax.data.sources.per_image_stains import PerImageStains
from histojax.errors import UserError

# Fields of `config.data` that decide how batches are made, not what they hold.
_RULES = {
    "workers": whole(0),
    "crops_per_image": whole(1),
    "device_bytes": whole(0),
    "placement": one_of(("auto", "host", "device")),
}
# Visits of `crops_per_image` crops whose order is mixed: so many images are in use at a time.
_MIXED_VISITS = 16
_NO_SHM = {errno.ENOSPC, errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOSYS, errno.EROFS}
_BLAS_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def _train_example(
    source: Source, spec: ExampleSpec, index: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """One augmented example of an image: what grain maps over the stream."""
    image = read_checked(source, index, spec)
    height, width = image["hr"].shape[:2]
    parameters = augmentation.sample_parameters(spec.augmentation, rng)
    if spec.augmentation.own_stains:
        parameters["stains"] = image["stains"]
    size = spec.crop
    if spec.augmentation.zooms:
        size = min(round(spec.crop / float(parameters["zoom"])), height, width)
    y, x = map(int, augmentation.sample_origin(rng, height, width, size, spec.step))
    cropped = cut(image, y, x, size, spec, parameters)
    return finish(cropped, spec, parameters, spec.sample_degradation(rng))


@functools.lru_cache(maxsize=64)
def _permutation(seed: tuple[int, ...], count: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(count)


@dataclasses.dataclass(frozen=True)
class ImageOrder:
    """The endless stream of image numbers: every image once an epoch, each epoch in a new order.

    An image has `crops_per_image` places at each visit; those of _MIXED_VISITS visits are mixed.
    (grain's own shuffle spends a millisecond a number on sets of a few dozen.)
    """

    count: int
    seed: int
    crops_per_image: int = 1

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, place: int) -> int:
        visit = place
        if self.crops_per_image > 1:
            places = _MIXED_VISITS * self.crops_per_image
            block, place = divmod(place, places)
            mixed = _permutation((self.seed, 1, block), places)[place]
            visit = block * _MIXED_VISITS + int(mixed) // self.crops_per_image
        epoch, number = divmod(visit, self.count)
        return int(_permutation((self.seed, 0, epoch), self.count)[number])


@contextlib.contextmanager
def _single_threaded_children() -> Iterator[None]:
    """Processes started inside run BLAS on one thread: workers would fight over the cores."""
    before = {name: os.environ[name] for name in _BLAS_THREADS if name in os.environ}
    os.environ.update(dict.fromkeys(_BLAS_THREADS, "1"))
    try:
        yield
    finally:
        for name in _BLAS_THREADS:
            del os.environ[name]
        os.environ.update(before)


def _end_with_parent(index: int, count: int) -> None:
    """In a worker: it ends with the run, also where the run is killed, and not before."""
    del index, count
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # SLURM signals every process of a job
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


class HostBatches(Batches):
    """Endless training batches made by grain on the host; NumPy arrays.

    The stream of examples depends on (seed, position) alone. Process p of n takes the p-th of n
    parts of each batch, so that they make the batches that one process would.

    Of `config.data`, workers=0 uses threads; processes are spawned, so that the source is pickled,
    and a script needs `if __name__ == "__main__":`. The `crops_per_image` drawn each time that an
    image is visited come near each other, for a source that keeps few images decoded.
    """

    def __init__(
        self,
        source: Source,
        spec: ExampleSpec,
        data_config: Mapping[str, Any],
        *,
        batch_size: int,
        seed: int,
        process_index: int,
        process_count: int,
    ):
        import grain  # 1.5 s, which device batches and refusals do not spend

        order = ImageOrder(len(source), seed, data_config["crops_per_image"])
        images = grain.MapDataset.source(order).seed(seed)
        examples = images.random_map(functools.partial(_train_example, source, spec))
        parts = examples.batch(batch_size, drop_remainder=True)
        self._batches: Any = parts[process_index::process_count]
        self._workers = data_config["workers"]
        self._iterator: Any = None

    def _start(self) -> dict[str, np.ndarray]:
        """Starts the threads or workers at the position, and returns the first batch."""
        import grain

        threads = 0 if self._workers else min(4, len(cores.usable()))
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
        batches = self._batches[self._position :].to_iter_dataset(options)
        if not self._workers:
            self._iterator = iter(batches)
            return next(self._iterator)
        from absl import flags

        if not flags.FLAGS.is_parsed():
            # grain reads absl flags when it starts workers; a notebook or test has parsed none.
            flags.FLAGS.mark_as_parsed()
        batches = batches.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=self._workers, per_worker_buffer_size=4),
            worker_init_fn=_end_with_parent,
        )
        try:
            with _single_threaded_children():
                self._iterator = iter(batches)
                return next(self._iterator)
        except OSError as error:
            if error.filename is not None or error.errno not in _NO_SHM:  # of the data, or memory
                raise
            raise UserError(
                f"config.data.workers={self._workers} needs shared memory in /dev/shm "
                f"({error.strerror}): mount it, or give 0 for threads"
            ) from error

    def __next__(self) -> dict[str, np.ndarray]:
        """The next batch; new workers make one that a dead worker leaves out, or UserError."""
        for again in (True, False):
            try:
                batch = self._start() if self._iterator is None else next(self._iterator)
                break
            except RuntimeError as error:
                if not str(error).startswith("Worker process was terminated unexpectedly"):
                    raise
                self.close()
                reason = str(error).partition(". ")[0]
                if not again:
                    raise UserError(
                        f"config.data.workers={self._workers}: batch {self._position} cannot be "
                        f"made ({reason}, twice; -9 is often too little memory): give fewer "
                        "workers, or 0 for threads"
                    ) from error
                logging.warning(f"batch {self._position}: {reason}; starting the workers again")
        self._position += 1
        return batch

    def close(self) -> None:
        """Stops the threads or workers; the next batch starts them again."""
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None


def _needs_host(spec: ExampleSpec) -> str | None:
    """Why examples cannot be made on the device, in words, or None."""
    if spec.degrades and (reason := degradation_lib.needs_host(spec.degradation)):
        return reason
    for field, on, off in (
        ("zoom runs", spec.augmentation.zooms, "((1, 1) switches it off)"),
        ("rotate and translate run", spec.augmentation.warps, "(0 switches them off)"),
        ("coarse and jpeg_quality run", spec.augmentation.dulls, "((1, 1), (100, 100): off)"),
    ):
        if on:
            return f"augmentation.{field} on the host only {off}"
    return None


def train_batches(
    source: Source,
    data_config: Mapping[str, Any],
    *,
    fields: Sequence[str],
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    sharding: Any = None,
) -> Batches:
    """Endless training batches with a position that can be saved.

    Args:
        data_config: `config.data`, checked. placement "auto" takes the device where there is an
            accelerator, the set fits device_bytes and every step can run there.
        batch_size: B, of this process.
        process_index, process_count: process p of n makes the p-th of n parts, of B examples each,
            of what one process would make.
        sharding: see `DeviceBatches`; host batches are NumPy arrays of this process's part.

    Raises:
        UserError: for fields that the source does not hold, or device placement where it is not
            possible. An unusable image is refused when it is read.
    """
    import jax  # grain's workers import this module and must not start JAX

    spec = example_spec(source, data_config, fields)
    if spec.augmentation.own_stains:
        source = PerImageStains(source)
    check_placement(spec, data_config)
    placement, max_bytes = data_config["placement"], data_config["device_bytes"]
    suits_device = placement == "auto" and not _needs_host(spec) and jax.default_backend() != "cpu"
    if placement == "device" or suits_device:
        store = load_store(source, spec, max_bytes)
        if store is not None:
            total = batch_size * process_count
            return DeviceBatches(store, spec, batch_size=total, seed=seed, sharding=sharding)
        if placement == "device":
            raise UserError(
                f"config.data.placement='device' is not possible: the set of {len(source)} images "
                f"does not fit config.data.device_bytes={max_bytes}; raise that or use 'host'"
            )
    how = {"process_index": process_index, "process_count": process_count}
    return HostBatches(source, spec, data_config, batch_size=batch_size, seed=seed, **how)


def check(data_config: Mapping[str, Any], seed: int) -> None:
    """Checks what decides how batches are made, not what they hold: `config.data` and the seed."""
    checks.check({"seed": seed}, {"seed": whole(0, 2**32 - 1)})
    checks.check(data_config, _RULES, "config.data.")


def check_placement(spec: ExampleSpec, data_config: Mapping[str, Any]) -> None:
    """Checks that training batches can be made where `config.data.placement` wants them."""
    reason = _needs_host(spec)
    if data_config["placement"] == "device" and reason:
        raise UserError(f"config.data.placement='device' is not possible: {reason}; use 'host'")
