"""The training of a U-Net that draws latents from captions, before it is taught masks."""

from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from jaxtyping import Float
from torch import Tensor, nn

from crispmask.data.captions import kinds_of
from crispmask.data.source import open_split
from crispmask.diffusion.gaussian import (
    DenoiseLatents,
    Latents,
    Scheduler,
    Steps,
    add_noise,
    mask_scheduler,
    training_target,
)
from crispmask.errors import InputError
from crispmask.models.diffusers_parts import diffusers_class, load_diffusers
from crispmask.models.latents import LatentCache, LatentCodec
from crispmask.models.text_states import QueryEncoder
from crispmask.models.text_to_image import captioned, save_minilm_model
from crispmask.shapes import IGNORE
from crispmask.train.batches import StoredImages, some_of, store
from crispmask.train.captioned import (
    CaptionBatch,
    CaptionedCrops,
    captioned_crops,
    draw_captioned,
)
from crispmask.train.latent_config import UNET_GROUPS, GeneratorConfig
from crispmask.train.loop import Task

SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
}
"""The betas of Stable Diffusion, before they are rescaled to zero SNR."""

EVAL_TIMES = 4
"""Times at which each held-out crop is tried, evenly spread."""

EVAL_BATCH = 16


class GeneratorObjective(nn.Module):
    """Mean squared error of v, the noise's times spread evenly over the batch."""

    def __init__(self, model: nn.Module, scheduler: Scheduler, *, reads_padding: bool) -> None:
        super().__init__()
        self.model = model
        self.scheduler = scheduler
        self.reads_padding = reads_padding

    def forward(self, batch: CaptionBatch, progress: float, generator: torch.Generator) -> Tensor:
        """Loss of a batch; the times of its crops are spread evenly, from a random start."""
        b, x_0 = len(batch.latents), batch.latents
        t = (torch.rand((), generator=generator) + torch.arange(b) / b) % 1
        step = (t * int(self.scheduler.config["num_train_timesteps"])).long()
        step = step[torch.randperm(b, generator=generator)]
        noise = torch.randn(x_0.shape, generator=generator).to(x_0)
        denoise = captioned(self.model, batch.states, reads_padding=self.reads_padding)
        return v_errors(denoise, self.scheduler, x_0, noise, step.to(x_0.device)).mean()


def v_errors(
    denoise: DenoiseLatents, scheduler: Scheduler, x_0: Latents, noise: Latents, step: Steps
) -> Float[Tensor, "n"]:
    """Mean squared error of what the network says of each noised latent."""
    x_t = add_noise(scheduler, x_0, noise, step)
    wanted = training_target(scheduler, x_0, noise, step)
    return (denoise(x_t, step) - wanted).square().mean(dim=(1, 2, 3))


def generator_task(config: GeneratorConfig) -> tuple[Task, dict[str, Any]]:
    """Model, batches and validation scores of a run, and what its card says of the data.

    Raises:
        InputError: if data, masks or VAE cannot be used, or an extra is missing.
    """
    train_set, val_set = open_split(config.data, "train"), open_split(config.data, "val")
    codec = LatentCodec(load_vae(Path(config.vae))).to(PartialState().device)
    encode = codec.encode if config.cache is None else LatentCache(codec, config.cache)
    words = QueryEncoder.minilm()
    unet = new_unet(config, codec, text_width=words.width)
    scheduler = mask_scheduler(SCHEDULE)
    names, kinds = train_set.class_names, kinds_of(config.data)

    def crops_of(data: StoredImages, count: int) -> CaptionedCrops:
        return captioned_crops(
            data, config.augment, encode, names, kinds=kinds, crops=count, seed=config.loop.seed
        )

    stored = store(train_set)
    if all((item.mask == IGNORE).all() for item in stored):
        raise InputError(
            f"captions are made from masks, and those of {config.data} are unknown throughout; "
            "give a data set with labels."
        )
    crops = crops_of(stored, config.crops)
    held_out = crops_of(store(some_of(val_set, config.loop.eval_images)), 1)
    words.encode(["", *crops.captions])  # all at once: how texts are batched must not depend on
    words.encode(held_out.captions)  # where a run was stopped
    task = Task(
        objective=GeneratorObjective(unet, scheduler, reads_padding=words.reads_padding),
        draw=lambda g: draw_captioned(
            crops,
            words,
            batch_size=config.loop.batch_size,
            drop=config.drop_caption,
            generator=g,
        ),
        evaluate=lambda candidate: generator_scores(candidate, held_out, words, scheduler),
        save=lambda model, folder: save_minilm_model(
            folder, unet=model, vae=codec.vae, scheduler=scheduler
        ),
    )
    facts = {
        "train_images": len(stored),
        "train_crops": len(crops.captions),
        "train_captions": len(set(crops.captions)),
        "val_crops": len(held_out.captions),
    }
    return task, facts


def load_vae(folder: Path) -> nn.Module:
    """The VAE of a run folder.

    Raises:
        InputError: if there is none, or its files are damaged or do not fit each other.
    """
    if not (folder / "vae" / "config.json").is_file():
        raise InputError(
            f"the run of a VAE is needed, but {folder} has no vae/config.json; train one with "
            "`crispmask train latent-earth-vae` or latent-camvid-vae and give its folder as --vae."
        )
    return load_diffusers(diffusers_class("AutoencoderTiny"), folder / "vae")


def new_unet(config: GeneratorConfig, codec: LatentCodec, *, text_width: int) -> nn.Module:
    """The untrained U-Net: words are attended to at all levels but the finest.

    Raises:
        InputError: if a crop is no whole number of the U-Net's coarsest cells.
    """
    levels = len(config.widths)
    coarsest = codec.stride * 2 ** (levels - 1)
    if any(side % coarsest for side in config.augment.crop):
        raise InputError(
            f"sides of crop must be multiples of {coarsest} (VAE {codec.stride}, U-Net "
            f"{2 ** (levels - 1)}), got {config.augment.crop[0]}x{config.augment.crop[1]}."
        )
    unet: nn.Module = diffusers_class("UNet2DConditionModel")(
        sample_size=tuple(side // codec.stride for side in config.augment.crop),
        in_channels=codec.channels,
        out_channels=codec.channels,
        block_out_channels=config.widths,
        down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * (levels - 1),
        up_block_types=("CrossAttnUpBlock2D",) * (levels - 1) + ("UpBlock2D",),
        layers_per_block=config.depth,
        cross_attention_dim=text_width,
        attention_head_dim=config.heads,  # so diffusers calls their number
        norm_num_groups=UNET_GROUPS,
    )
    return unet


@torch.no_grad()
def generator_scores(
    unet: nn.Module, crops: CaptionedCrops, words: QueryEncoder, scheduler: Scheduler
) -> dict[str, float]:
    """Error of v on held-out crops at fixed times and noise, and whether the words matter.

    ``caption_gain`` is by how much the error grows when each crop gets the caption of another; 0
    means that captions are ignored.
    """
    device = next(unet.parameters()).device
    unet.eval()
    total = int(scheduler.config["num_train_timesteps"])
    n = len(crops.captions)
    noise = torch.randn(
        (EVAL_TIMES, *crops.latents.shape), generator=torch.Generator().manual_seed(0)
    )
    others = crops.captions[n // 2 :] + crops.captions[: n // 2]
    sums = {"true": 0.0, "other": 0.0}
    for kind, captions in (("true", crops.captions), ("other", others)):
        for start in range(0, n, EVAL_BATCH):
            rows = slice(start, start + EVAL_BATCH)
            states = words.encode(captions[rows]).to(device)
            denoise = captioned(unet, states, reads_padding=words.reads_padding)
            x_0 = crops.latents[rows].to(device)
            for i in range(EVAL_TIMES):
                step = torch.full((len(x_0),), int(total * (i + 0.5) / EVAL_TIMES), device=device)
                errors = v_errors(denoise, scheduler, x_0, noise[i, rows].to(device), step)
                sums[kind] += errors.sum().item()
    true, other = (value / (n * EVAL_TIMES) for value in sums.values())
    return {"val_v_loss": true, "val_v_loss_other_caption": other, "caption_gain": other - true}
