"""The majority filter, against counting by hand."""

import pytest
import torch

from crispmask.data.votes import majority_filter, vote_share
from crispmask.errors import InputError
from crispmask.shapes import IGNORE


def test_the_majority_filter_counts_votes() -> None:
    """Against a loop over windows."""
    mask = torch.randint(4, (1, 9, 11), generator=torch.Generator().manual_seed(0))
    mask[mask == 3] = IGNORE
    got = majority_filter(mask, 5, num_classes=3)
    share = vote_share(mask, 5, num_classes=3)
    for y in range(9):
        for x in range(11):
            window = mask[0, max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3].flatten().tolist()
            votes = [window.count(k) for k in range(3)]
            own, winner = int(mask[0, y, x]), int(got[0, y, x])
            assert votes[winner] == max(votes)
            want = torch.tensor(votes) / sum(votes)
            torch.testing.assert_close(share[0, :, y, x], want, atol=1e-3, rtol=0)
            if own != IGNORE and votes[own] == max(votes):
                assert winner == own


def test_the_majority_filter_keeps_what_nobody_knows() -> None:
    unknown = torch.full((1, 4, 4), IGNORE)
    assert torch.equal(majority_filter(unknown, 3, num_classes=2), unknown)
    assert (vote_share(unknown, 3, num_classes=2) == 0).all()
    with pytest.raises(InputError, match="must be odd, got 4"):
        majority_filter(unknown, 4, num_classes=2)
