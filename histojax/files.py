"""Files that are whole or absent, refusals in one sentence, folders that one run at a time uses."""

import contextlib
import errno
import functools
import hashlib
import os
import platform
import re
import shutil
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
from absl import logging

from histojax.errors import DiskError, UserError

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)
# Where a path may begin: a word, the value of a flag, a SPEC, a list.
_HOME = re.compile(r"(?:^|(?<=[=:,]))~[\w.-]*(?=[/,]|$)")
# Others may write to the same folder, and containers of one name: their processes are unknown here.
_MACHINE = f"{zlib.crc32(platform.node().encode()):08x}"
_PART = re.compile(rf"\.[0-9a-f]{{8}}\.{_MACHINE}\.(\d+)\.part")


def with_homes(value: Any) -> Any:
    """Text, also in lists and dicts, with ~ and ~NAME as their folders where a path may begin."""
    if isinstance(value, str):
        return _HOME.sub(lambda found: os.path.expanduser(found[0]), value)
    if isinstance(value, dict):
        return {name: with_homes(entry) for name, entry in value.items()}
    return [with_homes(entry) for entry in value] if isinstance(value, list) else value


@contextlib.contextmanager
def disk_errors(path: str | Path | None) -> Iterator[None]:
    """Turns what the disk refuses (no space, no permission, no folder) into a DiskError.

    `path` is what is written, named in the message; None: something in the temporary folder.
    """
    try:
        yield
    except OSError as error:
        raise refused(path, error.strerror or str(error)) from error


def refused(path: str | Path | None, reason: str) -> DiskError:
    """The error that says what could not be written, why, and how much space there is."""
    where = "the temporary folder" if path is None else str(path)
    free = free_bytes(path)
    space = "" if free is None else f"; {free / 1e6:,.1f} MB are free"
    return DiskError(
        f"Writing to {where} failed ({reason}{space}): free space there or name a folder that can "
        "be written"
    )


def free_bytes(path: str | Path | None) -> int | None:
    """Free bytes where `path` is, which need not exist; None: unknown."""
    place = Path(tempfile.gettempdir() if path is None else path).absolute()
    for folder in (place, *place.parents):
        with contextlib.suppress(OSError):
            return shutil.disk_usage(folder).free
    return None


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A path in the same folder to write to, renamed to `path` at the end, removed on failure.

    The folder is made where it is missing.

    Raises:
        DiskError: the disk refuses.
    """
    path = Path(path)
    # Not longer than a name may be, however long the final one is.
    name = f"{zlib.crc32(os.fsencode(path.name)):08x}"
    part = path.with_name(f".{name}.{_MACHINE}.{os.getpid()}.part")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear_parts(path.parent)
        try:
            yield part
            os.replace(part, path)
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise


@functools.cache
def _clear_parts(folder: Path) -> None:
    """Removes what dead processes of this machine wrote over an hour ago."""
    for part in folder.glob(".*.part") if os.name == "posix" else ():
        named = _PART.fullmatch(part.name)
        with contextlib.suppress(OSError):
            if named and time.time() - part.stat().st_mtime > 3600:
                try:
                    os.kill(int(named[1]), 0)  # sends nothing
                except (ProcessLookupError, OverflowError):
                    part.unlink()


def digest_of(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_writable(folder: Path) -> None:
    """Makes a folder of results before the work begins; DiskError where it cannot be written."""
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


@contextlib.contextmanager
def sole_use(folder: Path) -> Iterator[None]:
    """Holds a folder, made where it is missing, against every other process that asks for it.

    The lock belongs to the process and goes with it, however it ends. On NFS it holds between
    machines too, as far as the server's lock service runs. A file system without locks is used with
    a warning.

    Raises:
        UserError: another process holds it.
        DiskError: it cannot be made or written.
    """
    path = folder / ".lock"
    with contextlib.ExitStack() as stack:
        with disk_errors(path):
            folder.mkdir(parents=True, exist_ok=True)
            # Opened without truncating it: the holder's name stands in it.
            number = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            file = stack.enter_context(os.fdopen(number, "r+b", buffering=0))
        try:
            held = filelock.lock_descriptor(file.fileno(), blocking=False)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise refused(path, error.strerror or str(error)) from error
            logging.warning(
                "%s: its file system has no locks, so see that no other run writes there", folder
            )
            held = True
        # Windows locks the first byte against readers too, so the name begins at the second.
        if not held:
            file.seek(1)
            holder = file.read().decode().strip() or "another process"
            raise UserError(
                f"{folder} is in use by {holder}: wait for that run to end, stop it, or name "
                "another --workdir"
            )
        # On a full disk the run itself will say so; the lock holds without its name.
        with contextlib.suppress(OSError):
            file.truncate(0)
            file.write(f"\nprocess {os.getpid()} on {platform.node()}\n".encode())
        yield
