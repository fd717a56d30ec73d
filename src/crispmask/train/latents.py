"""The training of a small VAE of images, through which masks go later, too."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from accelerate.utils import reduce
from torch import Tensor, nn

from crispmask.data.source import open_split
from crispmask.data.transforms import resize_labels, resize_short_side
from crispmask.models.diffusers_parts import diffusers_class
from crispmask.models.latents import LatentCodec, Picture, through_codec
from crispmask.models.mask_images import BinaryCodec
from crispmask.shapes import IGNORE, Image, Mask
from crispmask.train.batches import Batch, Stored, StoredImages, draw, some_of, store
from crispmask.train.codec import ceiling
from crispmask.train.latent_config import LatentVaeConfig
from crispmask.train.loop import Task
from crispmask.train.processes import own_share


class LatentVaeObjective(nn.Module):
    """``L2 + l1_weight * L1 + latent_weight * latents ** 2``, means, pictures in [-1, 1]."""

    def __init__(self, model: nn.Module, config: LatentVaeConfig) -> None:
        super().__init__()
        self.model = model
        self.settings = config

    def forward(self, batch: Batch, progress: float, generator: torch.Generator) -> Tensor:
        """Loss of a batch; the generator chooses the classes and draws the noise."""
        model, settings = cast(Any, self.model), self.settings
        pictures = some_as_masks(batch, settings.mask_share, generator)
        latents = model.encode(pictures).latents
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        error = model.decode(latents + settings.noise * noise).sample - pictures
        loss: Tensor = (
            error.square().mean()
            + settings.l1_weight * error.abs().mean()
            + settings.latent_weight * latents.square().mean()
        )
        return loss


def some_as_masks(batch: Batch, share: float, generator: torch.Generator) -> Picture:
    """The crops as pictures, the first ones of a share as the mask of one class.

    The class is one of the crop's, or one that it does not show, all equally likely: a black
    picture must stay black.
    """
    pictures = 2 * batch.images - 1
    for i in range(round(share * len(pictures))):
        mask = batch.masks[i]
        known = torch.unique(mask[mask != IGNORE]).tolist()
        choice = int(torch.randint(len(known) + 1, (), generator=generator))
        shown = mask == known[choice] if choice < len(known) else torch.zeros_like(mask).bool()
        pictures[i] = 2 * shown.to(pictures.dtype) - 1
    return pictures


def latent_vae_task(config: LatentVaeConfig) -> tuple[Task, dict[str, Any]]:
    """Model, batches and validation scores of a run, and what its card says of the data.

    Each evaluation also measures the scaling factor and writes it into the config of the model.

    Raises:
        InputError: if the data cannot be used, or diffusers is missing.
    """
    train_set, val_set = open_split(config.data, "train"), open_split(config.data, "val")
    model = new_vae(config)
    stored, few = store(train_set), store(some_of(val_set, config.loop.eval_images))
    side = config.augment.short_side
    seen = some_of(stored, config.loop.eval_images)

    def evaluate(candidate: nn.Module) -> dict[str, float]:
        scale = scaling_factor(candidate, [sized(seen[i], side)[0] for i in range(len(seen))])
        vae: Any = candidate
        vae.register_to_config(scaling_factor=scale)
        scores = vae_scores(candidate, few, len(train_set.class_names), short_side=side)
        return {"scaling_factor": scale, **scores}

    task = Task(
        objective=LatentVaeObjective(model, config),
        draw=lambda g: draw(stored, config.augment, batch_size=config.loop.batch_size, generator=g),
        evaluate=evaluate,
        save=lambda vae, folder: vae.save_pretrained(folder / "vae"),
    )
    return task, {"train_images": len(stored), "val_images": len(few)}


def new_vae(config: LatentVaeConfig) -> nn.Module:
    """An `AutoencoderTiny`: without norms, so that flat pictures keep their value."""
    every = (config.width,) * len(config.blocks)
    vae: nn.Module = diffusers_class("AutoencoderTiny")(
        encoder_block_out_channels=every,
        decoder_block_out_channels=every,
        num_encoder_blocks=config.blocks,
        num_decoder_blocks=config.blocks[::-1],
        latent_channels=config.channels,
    )
    return vae


def sized(item: Stored, short_side: int) -> tuple[Image, Mask]:
    """An image and its mask at a short side; as they are where that is 0."""
    image = resize_short_side(item.image[None].float() / 255, short_side)
    mask = item.mask[None].long()
    if image.shape[-2:] != mask.shape[-2:]:
        mask = resize_labels(mask, (image.shape[-2], image.shape[-1]))
    return image, mask


@torch.no_grad()
def scaling_factor(vae: nn.Module, images: Sequence[Image]) -> float:
    """One over the standard deviation of the latents, over all their elements.

    As Rombach et al. (2022, appendix G) rescale the latents of their KL models.
    """
    model: Any = vae.eval()
    device = next(vae.parameters()).device
    found = [model.encode(2 * x.to(device) - 1).latents.flatten() for x in images]
    return 1 / torch.cat(found).double().std().item()


@torch.no_grad()
def vae_scores(
    vae: nn.Module, data: StoredImages, num_classes: int, *, short_side: int = 0
) -> dict[str, float]:
    """What comes back: PSNR of images in dB, mIoU and boundary IoU of masks, class by class.

    PSNR is that of the mean squared error over all pixels; a mask is a black and white picture of
    each class, and a pixel gets the brightest class.
    """
    device = next(vae.parameters()).device
    latents = LatentCodec(vae)
    pairs = [sized(data[i], short_side) for i in range(len(data))]
    sums = torch.zeros(2, dtype=torch.float64)
    for i in own_share(len(pairs)):
        picture = 2 * pairs[i][0].to(device) - 1
        back = latents.decode(latents.encode(picture), (picture.shape[-2], picture.shape[-1]))
        error = (back.clamp(-1, 1) - picture).square()
        sums += torch.tensor([error.sum().item(), error.numel()], dtype=torch.float64)
    squared, count = reduce(sums.to(device), "sum").tolist()

    def through(mask: Mask) -> Mask:
        image = torch.zeros(1, 3, *mask.shape[1:], device=device)
        logits = through_codec(mask, image, num_classes, BinaryCodec(), latents)
        return logits.argmax(1)

    masks = [mask[0].byte() for _, mask in pairs]
    kept = ceiling(masks, through, num_classes=num_classes, device=device)
    psnr = 10 * torch.tensor(4 * count / max(squared, 1e-12)).log10().item()
    return {"val_psnr": psnr, **{f"val_mask_{name}": score for name, score in kept.items()}}
