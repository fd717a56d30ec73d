"""What the pixels around one say of its class."""

import torch.nn.functional as F

from crispmask.errors import InputError
from crispmask.shapes import IGNORE, Mask, Probs


def vote_share(mask: Mask, size: int = 5, *, num_classes: int) -> Probs:
    """Share of each class in the ``size x size`` window of a pixel, cut at the image's edge.

    Unknown pixels have no vote; without any vote all shares are 0. A pixel's own vote counts a
    thousandth more, by which its class wins a tie.

    Raises:
        InputError: if ``size`` is even.
    """
    if size % 2 == 0:
        raise InputError(f"the window of a majority filter must be odd, got {size}.")
    known = mask != IGNORE
    votes = F.one_hot(mask.where(known, 0), num_classes).movedim(-1, 1)  # b k h w
    votes = (votes * known[:, None]).float()
    total = F.avg_pool2d(votes, size, stride=1, padding=size // 2, divisor_override=1)
    total = total + 1e-3 * votes
    return total / total.sum(1, keepdim=True).clamp(min=1)


def majority_filter(mask: Mask, size: int = 5, *, num_classes: int) -> Mask:
    """Each pixel's most frequent class in its ``size x size`` window; its own one wins a tie.

    Unknown pixels have no vote and take the class of their window if it has one.

    Raises:
        InputError: if ``size`` is even.
    """
    share = vote_share(mask, size, num_classes=num_classes)
    return share.argmax(1).where(share.sum(1) > 0, IGNORE)
