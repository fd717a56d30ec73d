"""Tensor types and the axis legend.

Axes: b batch, k classes, c channels, h and w pixels, d embedding, n tokens.

Shapes are checked by the test run and cost nothing in production.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

IGNORE = 255
"""Label of pixels whose class is unknown; never a class, never in a loss or a metric."""

VOID = -1
"""Label of unknown pixels where there may be more than 255 classes, so that 255 can be one.

Code that expects `IGNORE` refuses it, so the two cannot be mixed up in silence.
"""

Image = Float[Tensor, "b 3 h w"]
"""RGB in [0, 1]; models normalise inside."""

Mask = Int64[Tensor, "b h w"]
"""Class indices, `IGNORE` where unknown."""

Logits = Float[Tensor, "b k h w"]
"""Scores before the softmax over classes."""

Probs = Float[Tensor, "b k h w"]
"""Class probabilities; they sum to one over k."""

Features = Float[Tensor, "b c h w"]
"""Feature maps of a network, usually at a quarter of the image size."""

Time = Float[Tensor, "b"]
"""Diffusion time in [0, 1]: 0 is clean, 1 is noise."""

Generators = torch.Generator | Sequence[torch.Generator] | None
"""Source of randomness: one for all, one for each image of a batch, or torch's default."""
