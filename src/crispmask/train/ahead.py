"""Batches drawn by threads while the network is busy, the same ones in the same order."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import torch

T = TypeVar("T")


def draw_ahead(
    draw: Callable[[torch.Generator], T], seeds: Iterable[int], *, workers: int
) -> Generator[tuple[T, torch.Generator], None, None]:
    """What is drawn with a generator of each seed, in their order, and that generator.

    Nothing depends on ``workers``: each draw has a generator of its own. Threads suffice, for
    reading and warping images release Python's lock; twice as many draws as threads wait at most.

    Args:
        draw: makes one batch; whatever it raises is raised when that batch is asked for.
        seeds: one for each batch.
        workers: number of threads; with 0 each batch is drawn when it is asked for.
    """

    def one(seed: int) -> tuple[T, torch.Generator]:
        generator = torch.Generator().manual_seed(seed)
        return draw(generator), generator

    if not workers:
        yield from map(one, seeds)
        return
    coming = iter(seeds)
    pool = ThreadPoolExecutor(workers)
    try:
        waiting: deque[Future[tuple[T, torch.Generator]]] = deque(
            pool.submit(one, seed) for seed in islice(coming, 2 * workers)
        )
        while waiting:
            drawn = waiting.popleft().result()
            waiting.extend(pool.submit(one, seed) for seed in islice(coming, 1))
            yield drawn
    finally:
        pool.shutdown(cancel_futures=True)
