"""Text segmenters of random weights at tiny width: 8 channels, sentences of single letters."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backbone_layouts import tiny_scheduler, tiny_text_encoder, tiny_tokenizer, tiny_unet, tiny_vae
from crispmask.diffusion.gaussian import mask_scheduler
from crispmask.models.backbone import Backbone
from crispmask.models.latent_unet import widen_input
from crispmask.models.text_segmenter import TextSegmenter
from crispmask.models.text_states import QueryEncoder
from crispmask.nn.heads import AlignHeadConfig, LightDecoderConfig
from crispmask.nn.text_pathway import TextPathwayConfig

WIDTHS = (8, 16)
TEXT = 16


def tiny_backbone() -> Backbone:
    """The parts of a tiny Stable Diffusion 1.x, without the way over a folder."""
    tokenizer = tiny_tokenizer()
    unet = tiny_unet("sd1").eval()
    widen_input(unet, init="half")
    return Backbone(
        unet=unet,
        vae=tiny_vae().eval(),
        words=QueryEncoder(tiny_text_encoder("sd1", len(tokenizer)), tokenizer),
        scheduler=mask_scheduler(tiny_scheduler("sd1").config),
        trained_prediction="epsilon",
    )


def tiny_segmenter(*, gate: float = 0.5, **changes: Any) -> TextSegmenter:
    """A segmenter whose every part has a say; the random state is left as it was.

    Sentences are the bare words, of up to ten letters.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = TextSegmenter.from_backbone(tiny_backbone(), **{**small_heads(), **changes})
        if model.pathway is not None:
            for adapter in model.pathway.adapters.values():
                torch.nn.init.constant_(adapter.gate, gate)  # type: ignore[arg-type]
    return model.eval()


def small_heads() -> dict[str, Any]:
    return {
        "template": "{}",
        "pathway": TextPathwayConfig(block_widths=WIDTHS, text_width=TEXT, width=8, heads=2),
        "align": AlignHeadConfig(block_widths=WIDTHS, text_width=TEXT, width=8),
        "decoder": LightDecoderConfig(
            latent_channels=4, feature_channels=WIDTHS[0], factor=2, width=8
        ),
    }


def image_file(folder: Path, size: tuple[int, int] = (32, 24)) -> Path:
    """A picture of noise on disk, width x height."""
    from PIL import Image

    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (size[1], size[0], 3), generator=rng, dtype=torch.uint8)
    path = folder / "image.png"
    Image.fromarray(pixels.numpy()).save(path)
    return path


def picture(h: int = 18, w: int = 14, *, seed: int = 0) -> Tensor:
    return torch.rand(1, 3, h, w, generator=torch.Generator().manual_seed(seed))


@dataclass
class Spy:
    """What went through the U-Net: inputs, steps and texts of each call."""

    inputs: list[Tensor] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    texts: list[Tensor] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return sum(len(x) for x in self.inputs)


@contextmanager
def watched(model: TextSegmenter) -> Iterator[Spy]:
    spy = Spy()

    def look(_: Any, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        spy.inputs.append(args[0].clone())
        spy.steps.append(int(args[1][0]))
        spy.texts.append(options["encoder_hidden_states"].clone())

    handle = model.unet.register_forward_pre_hook(look, with_kwargs=True)
    try:
        yield spy
    finally:
        handle.remove()


def unweighted(model: TextSegmenter, **changes: Any) -> TextSegmenter:
    """The same networks; what the ranking adds to the scores is left out."""
    other: TextSegmenter = model.__class__.__new__(model.__class__)
    other.__dict__ = {**model.__dict__}
    other.config = replace(model.config, align_weight=0.0, presence_weight=0.0, **changes)
    return other
