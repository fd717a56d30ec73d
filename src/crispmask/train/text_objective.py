"""The loss of a `TextSegmenter`: latents, pixels, words and presence."""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from crispmask.data.transforms import resize_labels
from crispmask.diffusion.gaussian import Steps, add_noise, clean_latents, training_target
from crispmask.models.latents import VaeLatents
from crispmask.models.mask_images import known_latents, masks_of
from crispmask.models.text_segmenter import TextSegmenter
from crispmask.models.text_states import TextStates
from crispmask.shapes import IGNORE
from crispmask.train.corrupt import corrupted
from crispmask.train.queries import NO_WORD, Asked, TextBatch, WordTable, hardest
from crispmask.train.text_config import TextTrainConfig

FOREIGN_AT_ONCE = 8
"""Words of no image that are scored on a batch."""


class TextObjective(nn.Module):
    """Loss of a batch of crops; the network runs on a row for each crop and one for each query.

    A first call with the empty prompt, from the start of inference, gives the scores of all words.
    They are trained, and name the absent words that the second call asks about as well: those of
    this very model and batch, so that no state needs to be kept and a resumed run is the same.
    """

    tokens: Tensor
    token_mask: Tensor
    pooled: Tensor
    foreign: Tensor

    def __init__(
        self,
        model: TextSegmenter,
        config: TextTrainConfig,
        table: WordTable,
        states: TextStates,
        *,
        foreign: Float[Tensor, "f d"],
    ) -> None:
        """Take the words of all data sets, the states of all sentences, and those of no image.

        Args:
            model: that is trained.
            config: of the run.
            table: the words.
            states: of their sentences.
            foreign: one vector for each word of ``config.foreign``.
        """
        super().__init__()
        self.model = model
        self.settings = config
        self.table = table
        self.parts: dict[str, Tensor] = {}
        for name, value in (
            ("tokens", states.tokens),
            ("token_mask", states.mask),
            ("pooled", states.pooled),
            ("foreign", foreign),
        ):
            self.register_buffer(name, value, persistent=False)

    def forward(self, batch: TextBatch, progress: float, generator: torch.Generator) -> Tensor:
        """Weighted sum of the losses, kept in ``parts``; ``progress`` does not matter here."""
        settings, z_image = self.settings, self.model.look(batch.images)
        words, hard = self.words_loss(batch, z_image, generator)
        latent, bce, dice = self.masks_loss(batch, z_image, batch.asked | hard, generator)
        found = {"latent": latent, "bce": bce, "dice": dice, **words}
        self.parts = {f"loss_{name}": part.detach() for name, part in found.items()}
        weights = {name: getattr(settings, f"{name}_weight") for name in found}
        return torch.stack([weights[name] * part for name, part in found.items()]).sum()

    def words_loss(
        self, batch: TextBatch, z_image: VaeLatents, generator: torch.Generator
    ) -> tuple[dict[str, Tensor], Asked]:
        """Losses of alignment and presence, and hard absent words to be asked in addition.

        Each cell has the label of its centre; a crop without a known pixel counts for nothing.
        """
        align, b = self.model.align, len(z_image)
        step = torch.full((b,), self.model.last_step, device=z_image.device)
        start = self.model.start(z_image, generator=generator)
        states = self.states(torch.full_like(batch.sources, NO_WORD))
        pixels = align.pixels(self.model.call(z_image, start, step, states).features)
        cells = resize_labels(batch.masks, (pixels.shape[2], pixels.shape[3]))
        losses = torch.zeros(3, device=z_image.device)
        counts = torch.zeros_like(losses)
        hard = torch.zeros_like(batch.asked)
        for source, ways in enumerate(self.table.sentences):
            mine, n = (batch.sources == source).nonzero().flatten(), len(ways)
            if not len(mine):
                continue
            ids = self.table.ids[source, :n].to(z_image.device)
            scores = align.scores(pixels[mine], align.words(self.pooled[batch.said[source, :n]]))
            logits = align.presence(scores)
            truth = (cells[mine][:, None] == ids.view(-1, 1, 1)).to(scores.dtype)
            there = batch.there[mine, :n]
            known = (cells[mine] != IGNORE)[:, None].expand_as(scores)
            seen = (batch.masks[mine] != IGNORE).flatten(1).any(1)[:, None].expand_as(logits)
            said = truth.any(1)  # by one of the words
            compete = F.cross_entropy(scores, truth, reduction="none")[said].sum()
            losses = losses + torch.stack(
                [_bce_sum(scores, truth, known), compete, _bce_sum(logits, there, seen)]
            )
            counts = counts + torch.stack([known.sum(), said.sum(), seen.sum()])
            free = ~there & ~batch.asked[mine, :n]
            hard[mine, :n] = hardest(logits.detach(), free, self.settings.absent // 2)
        if len(self.foreign):
            chosen = torch.randperm(len(self.foreign), generator=generator)[:FOREIGN_AT_ONCE]
            scores = align.scores(pixels, align.words(self.foreign[chosen.to(pixels.device)]))
            logits = align.presence(scores)
            known = (cells != IGNORE)[:, None].expand_as(scores)
            wrong = F.softplus(scores)[known].sum()  # softplus: the cross-entropy of "no"
            zero = counts.new_zeros(())
            losses = losses + torch.stack([wrong, zero, F.softplus(logits).sum()])
            counts = counts + torch.stack([known.sum().to(zero), zero, zero + logits.numel()])
        align, compete, presence = losses / counts.clamp(min=1)
        return {"align": align, "compete": compete, "presence": presence}, hard

    def masks_loss(
        self, batch: TextBatch, z_image: VaeLatents, asked: Asked, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Losses of latents and pixels, and soft Dice of words that occur."""
        model, settings, last = self.model, self.settings, self.model.last_step
        crops, said, masks = self.rows(batch, asked, generator)
        images = batch.images[crops]
        z_0 = model.mask_latents(masks, images)
        noised, step = z_0, self.steps(len(z_0), generator).to(z_0.device)
        if settings.steps == "many" and settings.corrupt and not model.config.closed:
            damaged = corrupted(masks[:, 0], settings.corrupt, generator)
            noised = model.mask_latents(damaged[:, None], images)
        noise = model.start(z_0, generator=generator)
        z_t = add_noise(model.scheduler, noised, noise, step)
        called = model.call(z_image[crops], z_t, step, self.states(said))
        wanted = training_target(model.scheduler, z_0, noise, step)
        known = known_latents(batch.masks, model.codec.stride)[crops].expand_as(z_0)
        error = (called.output - wanted).square() * known
        latent = error.sum() / known.sum().clamp(min=1)
        if model.config.closed:
            return latent, latent.new_zeros(()), latent.new_zeros(())
        z_hat = clean_latents(model.scheduler, called.output, z_t, step)
        logits = model.mask_logits(z_hat, called.features, images, decode="light")[:, 0]
        usable = (batch.masks[crops] != IGNORE) & (2 * step > last)[:, None, None]
        bce = _bce_sum(logits, masks[:, 0], usable) / usable.sum().clamp(min=1)
        return latent, bce, dice_of_present(logits, masks[:, 0], usable)

    def rows(
        self, batch: TextBatch, asked: Asked, generator: torch.Generator
    ) -> tuple[Int64[Tensor, "n"], Int64[Tensor, "n"], Bool[Tensor, "m p h w"]]:
        """Crop and sentence of each row of the network, and the masks that its picture is made of.

        A row is a query, and has one mask. Of a closed code it is a pass: the masks are those of
        all classes, once for all passes of a crop.
        """
        if self.model.config.closed:
            names = self.model.config.class_names
            passes = self.model.mask_codec.num_passes(len(names))
            crops = torch.arange(len(batch.images), device=batch.images.device)
            said = torch.arange(passes, device=crops.device).repeat(len(crops))
            return crops.repeat_interleave(passes), said, masks_of(batch.filled, len(names))
        crops, words = asked.nonzero().unbind(1)
        dropped = torch.rand(len(crops), generator=generator) < self.settings.drop_prompt
        dropped = dropped.to(crops.device)
        said = batch.said[batch.sources[crops], words].masked_fill(dropped, NO_WORD)
        return crops, said, self.targets(batch, crops, words, dropped)[:, None]

    def targets(
        self,
        batch: TextBatch,
        crops: Int64[Tensor, "n"],
        words: Int64[Tensor, "n"],
        dropped: Bool[Tensor, "n"],
    ) -> Bool[Tensor, "n h w"]:
        """Where each query is; without words, where any word of the data set is."""
        table = self.table.ids.to(crops.device)[batch.sources[crops]]  # n w
        ids = table.gather(1, words[:, None])  # n 1
        wanted = torch.where(dropped[:, None], table, ids)  # n w
        one_of = torch.zeros(len(crops), IGNORE + 1, dtype=torch.bool, device=crops.device)
        one_of.scatter_(1, wanted.where(wanted >= 0, ids), True)
        flat = batch.filled[crops].flatten(1)
        return one_of.gather(1, flat).view_as(batch.filled[crops])

    def steps(self, count: int, generator: torch.Generator) -> Steps:
        """The last step; of "many" half of them, the others with a density that grows with t."""
        last = torch.full((count,), self.model.last_step)
        if self.settings.steps == "one":
            return last
        pure, drawn = torch.rand(2, count, generator=generator)
        rising = (drawn.sqrt() * (self.model.last_step + 1)).long()
        return torch.where(pure < 0.5, last, rising.minimum(last))

    def states(self, said: Int64[Tensor, "n"]) -> TextStates:
        """States of sentences by their row."""
        return TextStates(
            tokens=self.tokens[said], mask=self.token_mask[said], pooled=self.pooled[said]
        )


def dice_of_present(
    logits: Float[Tensor, "n h w"], truth: Bool[Tensor, "n h w"], valid: Bool[Tensor, "n h w"]
) -> Float[Tensor, ""]:
    """One minus the soft Dice score (Milletari et al. 2016), over rows that have a true pixel."""
    probs, hit = logits.sigmoid() * valid, truth & valid
    pixels = hit.flatten(1).sum(1)
    overlap = (probs * hit).flatten(1).sum(1)
    loss = 1 - 2 * overlap / (probs.flatten(1).sum(1) + pixels).clamp(min=1e-6)
    return (loss * (pixels > 0)).sum() / (pixels > 0).sum().clamp(min=1)


def _bce_sum(logits: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(
        logits, truth.to(logits.dtype), weight=valid.to(logits.dtype), reduction="sum"
    )
