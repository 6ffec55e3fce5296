"""A progress bar with time left for a terminal, and a line now and then where there is none."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from tqdm import tqdm


def progress(total: int, what: str, every_s: float = 15.0) -> Callable[[int], None]:
    """A function to call with the number of items finished. Writes to stderr alone."""
    if sys.stderr.isatty():
        bar = tqdm(total=total, desc=what, leave=False)

        def advance(n: int) -> None:
            bar.update(n)
            if bar.n >= total:
                bar.close()

        return advance
    started = last = time.perf_counter()
    done = 0

    def line(n: int) -> None:
        nonlocal done, last
        done += n
        now = time.perf_counter()
        if now - last > every_s:
            last = now
            left = (now - started) / done * (total - done)
            print(f"  {what} {done}/{total}, {left:.0f} s left", file=sys.stderr, flush=True)

    return line
