"""Windows that cover an image, and weights that blend what they say."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor


def windows(h: int, w: int, *, window: int, overlap: int) -> Iterator[tuple[int, int]]:
    """Top-left corners of windows that cover h x w; the last ones end at the border."""

    def starts(size: int) -> list[int]:
        last = max(size - window, 0)
        return [*range(0, last, window - overlap), last]

    for top in starts(h):
        for left in starts(w):
            yield top, left


def cosine_weights(h: int, w: int) -> Float[Tensor, "h w"]:
    """Weights of a window: a raised cosine, 1 in the middle and nearly 0 at the edges."""

    def side(size: int) -> Float[Tensor, "size"]:
        place = (torch.arange(size, dtype=torch.float32) + 0.5) / size
        return (torch.pi * place).sin().square()

    return side(h)[:, None] * side(w)[None]
