"""The model card that a run leaves beside its weights."""

from typing import Any, cast

from torch import nn

from crispmask.train.configs import TrainConfig
from crispmask.train.latent_config import GeneratorConfig, LatentVaeConfig
from crispmask.train.text_config import TextTrainConfig

_TAGS: dict[type, str] = {LatentVaeConfig: "image-to-image", GeneratorConfig: "text-to-image"}


def card(config: TrainConfig, model: nn.Module, facts: dict[str, Any]) -> str:
    """The model card: what it is, how it was made, what it scored."""
    parameters = sum(p.numel() for p in model.parameters())
    tag, classes = _TAGS.get(type(config), "image-segmentation"), ""
    if not isinstance(config, LatentVaeConfig | GeneratorConfig):
        classes = f"Classes: {', '.join(cast(Any, model).config.class_names)}. "
    data = config.data if isinstance(config.data, str) else ", ".join(config.data)
    lines = [
        "---",
        "library_name: crispmask",
        f"pipeline_tag: {tag}",
        "---",
        "",
        f"# {type(model).__name__} for {data}",
        "",
        f"{classes}{parameters:,} parameters.",
        f"Trained for {config.loop.steps} steps of {config.loop.batch_size} crops per process, "
        f"seed {config.loop.seed}; settings in run.json.",
        *_began_with(config, facts),
        "What it may be used for follows from the licences of its data and of the weights it began "
        "with.",
        "",
        "| fact | value |",
        "|---|---|",
        *(
            f"| {k} | {v:.4f} |" if isinstance(v, float) else f"| {k} | {v} |"
            for k, v in facts.items()
        ),
        "",
    ]
    return "\n".join(lines)


def _began_with(config: TrainConfig, facts: dict[str, Any]) -> list[str]:
    """What the card of a run says that began with a trained segmenter of words."""
    if not isinstance(config, TextTrainConfig) or "base" not in facts:
        return []
    began = f"It began with the text segmenter {facts['base']}."
    if config.lora_rank:
        began += (
            f" This is an adapter of it, of rank {config.lora_rank}: config.json and "
            "adapter.safetensors hold all that was trained, and the base must be there to load it."
        )
    return [began]
