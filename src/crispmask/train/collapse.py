"""Signs that a latent model of masks has collapsed, and the end of a run that has."""

from collections.abc import Mapping

import torch
from accelerate.utils import reduce
from jaxtyping import Bool, Float
from torch import Tensor

from crispmask.errors import InputError

GRACE_STEPS = 500
"""Steps before which a poor answer is only young."""

GRACE_SHARE = 0.2
"""Share of the steps before which a poor answer is only young."""

MOST_EMPTY = 0.98
MOST_FULL = 0.98
LEAST_DEVIATION = 0.02


class MaskMonitor:
    """Sums over answers to words that occur, of all processes together.

    What they watch for is what binary masks in latents are known to end in: nothing, everything, or
    one and the same latent wherever one looks.
    """

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(10, dtype=torch.float64, device=device)

    def update(
        self,
        predicted: Bool[Tensor, "n h w"],
        truth: Bool[Tensor, "n h w"],
        known: Bool[Tensor, "n h w"],
        latents: Float[Tensor, "m c zh zw"],
        true_latents: Float[Tensor, "m c zh zw"],
    ) -> None:
        """Add answers; unknown pixels do not count."""
        found, true = predicted & known, truth & known
        answers = (found.sum(), true.sum(), known.sum(), (~found.flatten(1).any(1)).sum())
        moments = [(z.sum(), z.square().sum()) for z in (latents.double(), true_latents.double())]
        numbers = (*answers, len(found), latents.numel(), *moments[0], *moments[1])
        self.sums += torch.stack([self.sums.new_tensor(float(n)) for n in numbers])

    def compute(self) -> dict[str, float]:
        """What the log tells: shares of pixels and queries, and a ratio of deviations."""
        total: Tensor = reduce(self.sums.clone(), "sum")
        found, true, known, empty, rows, size, s, q, true_s, true_q = total.tolist()
        size = max(size, 1.0)
        deviation, true_deviation = (
            max(square / size - (mean / size) ** 2, 0.0) ** 0.5
            for mean, square in ((s, q), (true_s, true_q))
        )
        return {
            "val_foreground": found / max(known, 1.0),
            "val_foreground_ratio": found / max(true, 1.0),
            "val_empty": empty / max(rows, 1.0),
            "val_latent_std_ratio": deviation / max(true_deviation, 1e-6),
        }


def stop_if_collapsed(
    record: Mapping[str, float], *, steps: int, latents: bool, pixels: bool
) -> None:
    """End a run whose answers are worth nothing; its first steps do not count.

    Args:
        record: line of the log; one without scores says nothing.
        steps: of the whole run.
        latents: whether latents are trained.
        pixels: whether pixels are trained; else nobody has taught the decoder what a mask is.

    Raises:
        InputError: with the reason and what to do.
    """
    if "val_empty" not in record or record["step"] < max(GRACE_STEPS, GRACE_SHARE * steps):
        return
    reason = ""
    if pixels and record["val_empty"] >= MOST_EMPTY:
        reason = (
            f"{record['val_empty']:.0%} of the words that occur are answered by an empty mask; "
            "raise dice_weight or present, or lower absent"
        )
    elif pixels and record["val_foreground"] >= MOST_FULL and record["val_foreground_ratio"] > 1.05:
        reason = (
            f"{record['val_foreground']:.0%} of the pixels belong to whatever is asked; raise "
            "absent, or look whether the labels are right (crispmask data check)"
        )
    elif latents and record["val_latent_std_ratio"] <= LEAST_DEVIATION:
        reason = (
            "the predicted latents are the same everywhere (their standard deviation is "
            f"{record['val_latent_std_ratio']:.3f} of the truth's); raise latent_weight, or look "
            "whether the VAE keeps masks (codec_ceiling)"
        )
    if reason:
        raise InputError(
            f"the run has collapsed at step {record['step']}: {reason}. A lower learning rate or a "
            "longer warm-up may help, too; start again in a new folder."
        )
