"""Reading and changing the outputs of a U-Net's blocks, with forward hooks.

For `UNet2DConditionModel` of diffusers, whose classes stay as they are and need not be imported.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from crispmask.shapes import Features

Change = Callable[[str, Features], Features]
"""New output of a block from its name and its output."""


def level_widths(block_widths: Sequence[int]) -> dict[str, int]:
    """Channels of the output of each block, by name, in the order in which they run.

    Args:
        block_widths: ``block_out_channels`` of the U-Net's configuration.
    """
    down = {f"down_{i}": width for i, width in enumerate(block_widths)}
    up = {f"up_{i}": width for i, width in enumerate(reversed(block_widths))}
    return {**down, "mid": block_widths[-1], **up}


def level_strides(block_widths: Sequence[int]) -> dict[str, int]:
    """Sides of the latent over those of each block's output; the last block never resizes."""
    last = len(block_widths) - 1
    down = {f"down_{i}": 2 ** min(i + 1, last) for i in range(last + 1)}
    up = {f"up_{i}": 2 ** max(last - i - 1, 0) for i in range(last + 1)}
    return {**down, "mid": 2**last, **up}


@contextmanager
def block_features(unet: Any, change: Change | None = None) -> Iterator[dict[str, Features]]:
    """Inside, a dict holds the output of each block in the U-Net's last call.

    A down block answers with its output and with the tensors that skip to the up path, the last of
    which is that output. Only the output is read and changed, in both places, so that the up path
    meets what went on; the skips from inside a block stay as they are.

    The hooks sit on whole blocks and run once a call, also with diffusers' gradient checkpointing,
    which repeats layers inside blocks. They are gone when the block of code ends.

    Args:
        unet: a `UNet2DConditionModel`.
        change: what becomes of each output; None leaves them alone.
    """
    found: dict[str, Features] = {}

    def hook(name: str) -> Callable[..., Any]:
        def run(module: nn.Module, args: Any, output: Any) -> Any:
            x = output[0] if isinstance(output, tuple) else output
            found[name] = x if change is None else change(name, x)
            if change is None:
                return None
            if isinstance(output, tuple):
                return found[name], (*output[1][:-1], found[name])
            return found[name]

        return run

    blocks = {f"down_{i}": block for i, block in enumerate(unet.down_blocks)}
    blocks |= {} if unet.mid_block is None else {"mid": unet.mid_block}
    blocks |= {f"up_{i}": block for i, block in enumerate(unet.up_blocks)}
    handles = [block.register_forward_hook(hook(name)) for name, block in blocks.items()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
