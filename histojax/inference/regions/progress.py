"""How far an image is, and what took how long."""

import contextlib
import time
from collections.abc import Callable, Iterator

from tqdm import tqdm

from histojax.inference.regions.view import View

# A view of at most so many px has no progress bar.
_LEAST = 2**24

Times = dict[str, float]


@contextlib.contextmanager
def timed(times: Times, name: str) -> Iterator[None]:
    """Adds the seconds of a block to an entry."""
    started = time.monotonic()
    yield
    times[name] = times.get(name, 0) + time.monotonic() - started


@contextlib.contextmanager
def progress(view: View, total: int, done: int) -> Iterator[Callable[[int, int], None]]:
    """A progress bar over px of the view; the function that it gives takes px and tiles.

    Of the `total` px so many are done. Small views have no bar.
    """
    um2 = 1.0 if view.mpp is None else (view.mpp / view.factor) ** 2 / 1e6
    amounts = "{n:,.0f}/{total:,.0f} px" if view.mpp is None else "{n:,.3f}/{total:,.3f} mm2"
    with tqdm(
        total=total,
        initial=done,
        unit_scale=um2,
        desc=view.path.name,
        bar_format=f"{{l_bar}}{{bar}}| {amounts}{{postfix}} [{{elapsed}}<{{remaining}}]",
        disable=total <= _LEAST,
    ) as bar:
        tiles = 0

        def advance(pixels: int, more: int) -> None:
            nonlocal tiles
            tiles += more
            bar.set_postfix_str(f"{tiles:,} tiles", refresh=False)
            bar.update(pixels)

        yield advance
