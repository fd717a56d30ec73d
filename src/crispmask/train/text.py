"""The training of a `TextSegmenter`: data sets with words of their own, and a pretrained U-Net."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch.utils.data import Subset

from crispmask.data.source import AnyDataset, open_split
from crispmask.errors import InputError
from crispmask.models.backbone import Backbone, load_backbone
from crispmask.models.latent_unet import InputInit, widen_input
from crispmask.models.mask_images import fill_unknown
from crispmask.models.text_config import CLOSED_CODES, pass_prompts
from crispmask.models.text_segmenter import TextSegmenter
from crispmask.models.vocabulary import Vocabulary
from crispmask.shapes import IGNORE
from crispmask.train.batches import Stored, draw, some_of, store
from crispmask.train.collapse import stop_if_collapsed
from crispmask.train.loop import Task
from crispmask.train.lora import add_lora
from crispmask.train.queries import (
    TextBatch,
    WordTable,
    ask,
    class_ids,
    class_shares,
    occurring,
    tabulate,
    words_of,
)
from crispmask.train.text_config import TextTrainConfig
from crispmask.train.text_objective import TextObjective
from crispmask.train.text_scores import ValidationSet, text_scores


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data set of a run.

    Attributes:
        name: as the user gave it.
        vocabulary: its words.
        train: images to learn from, in memory.
        val: held-out images, in memory.
    """

    name: str
    vocabulary: Vocabulary
    train: list[Stored]
    val: list[Stored]


def text_task(config: TextTrainConfig) -> tuple[Task, dict[str, Any]]:
    """Model, batches and validation scores of a run, and what its card says of the data.

    Raises:
        InputError: if the data or the backbone cannot be used, or do not fit the settings.
    """
    splits = [(open_split(name, "train"), open_split(name, "val")) for name in config.data]
    vocabularies = [
        words_of(name, train.class_names)
        for name, (train, _) in zip(config.data, splits, strict=True)
    ]
    _check_words(config, vocabularies)
    model = new_text_segmenter(config, vocabularies)
    sources = [
        _read(config, name, vocabulary, train, val)
        for name, vocabulary, (train, val) in zip(config.data, vocabularies, splits, strict=True)
    ]
    names = model.config.class_names
    table, states = tabulate(
        vocabularies,
        [class_shares([s.mask for s in o.train], len(o.vocabulary.label_names)) for o in sources],
        model.words,
        prompts=pass_prompts(model.mask_codec.num_passes(len(names)) if model.config.closed else 1),
        template=model.config.template,
        synonyms=config.synonyms,
        held_out=config.held_out,
    )
    validation = [
        ValidationSet(name=name, vocabulary=source.vocabulary, items=source.val)
        for name, source in zip(short_names(config.data), sources, strict=True)
    ]
    foreign = states.pooled[:0]
    if config.foreign:
        said = [model.config.template.replace("{}", word) for word in config.foreign]
        foreign = model.words.encode(said).pooled
    objective = TextObjective(model, config, table, states, foreign=foreign)
    task = Task(
        objective=objective,
        parts=lambda: objective.parts,
        draw=partial(draw_text, config, sources, table),
        evaluate=lambda candidate: text_scores(cast(TextSegmenter, candidate).eval(), validation),
        watch=partial(
            stop_if_collapsed,
            steps=config.loop.steps,
            latents=config.latent_weight > 0,
            pixels=config.bce_weight + config.dice_weight > 0 and not model.config.closed,
        ),
        rate_factors={"unet.": config.unet_rate_factor},
    )
    return task, {
        "train_images": sum(len(source.train) for source in sources),
        "val_images": sum(len(source.val) for source in sources),
        "words": len(names),
        "sentences": len(states.pooled),
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }


def new_text_segmenter(
    config: TextTrainConfig, vocabularies: Sequence[Vocabulary]
) -> TextSegmenter:
    """The backbone with new heads, those of its weights that stay as they are frozen.

    Raises:
        InputError: if the backbone cannot be used, or does not fit the crop or the words.
    """
    init: InputInit = "image_only" if config.steps == "one" else "half"
    backbone = load_backbone(Path(config.backbone), init=init)
    if config.from_scratch:
        backbone = with_random_unet(backbone)
    names = tuple(
        dict.fromkeys(
            name
            for words in vocabularies
            for name in words.class_names
            if name not in config.held_out
        )
    )
    changes: dict[str, Any] = {} if config.pathway else {"pathway": None}
    model = TextSegmenter.from_backbone(
        backbone,
        class_names=names,
        mask_code=config.mask_code,
        template=config.template,
        decode="vae" if config.mask_code in CLOSED_CODES else "light",
        start="zeros" if config.steps == "one" else "noise",
        image_size=config.augment.short_side,
        guided=config.drop_prompt > 0,
        **changes,
    )
    _check(config, model, vocabularies)
    if model.config.closed:
        model.decoder.requires_grad_(False)  # cannot read such pictures
    if config.lora_rank:
        add_lora(model.unet, config.lora_rank)
    if config.gradient_checkpointing:
        model.unet.enable_gradient_checkpointing()
    return model


def with_random_unet(backbone: Backbone) -> Backbone:
    """The same parts, the U-Net with random weights as diffusers draws them."""
    old: Any = backbone.unet
    fresh = type(old).from_config(old.config)
    widen_input(fresh, init="half")  # has the width already; only noted in its config
    return replace(backbone, unet=fresh)


def draw_text(
    config: TextTrainConfig,
    sources: Sequence[Source],
    table: WordTable,
    generator: torch.Generator,
) -> TextBatch:
    """Random crops and queries; the generator decides everything."""
    count = config.loop.batch_size
    chosen = torch.randint(len(sources), (count,), generator=generator).sort().values
    numbers = torch.bincount(chosen, minlength=len(sources)).tolist()
    parts = [
        draw(source.train, config.augment, batch_size=n, generator=generator)
        for source, n in zip(sources, numbers, strict=True)
        if n
    ]
    masks = torch.cat([part.masks for part in parts])
    there = occurring(masks, table.ids[chosen])
    return TextBatch(
        images=torch.cat([part.images for part in parts]),
        masks=masks,
        filled=fill_unknown(masks),
        sources=chosen,
        there=there,
        asked=ask(
            there,
            table,
            chosen,
            present=config.present,
            absent=config.absent - config.absent // 2,
            generator=generator,
        ),
        said=table.say(generator),
    )


def short_names(data: Sequence[str]) -> list[str]:
    """Names of data sets for the log: "camvid" of "camvid:FOLDER", else that of the folder."""
    short = [Path(name).name if Path(name).is_dir() else name.partition(":")[0] for name in data]
    return [n if short.count(n) == 1 else f"{n}_{i}" for i, n in enumerate(short)]


def _read(
    config: TextTrainConfig,
    name: str,
    vocabulary: Vocabulary,
    train: AnyDataset,
    val: AnyDataset,
) -> Source:
    order = torch.randperm(
        len(train), generator=torch.Generator().manual_seed(config.loop.seed)
    ).tolist()
    some = sorted(order[: max(1, round(config.fraction * len(train)))])
    stored = store(train if config.fraction == 1 else Subset(train, some))
    named = zip(class_ids(vocabulary), vocabulary.class_names, strict=True)
    unknown = torch.tensor([label for label, word in named if word in config.held_out])
    if len(unknown):
        stored = [
            replace(item, mask=item.mask.where(~torch.isin(item.mask, unknown), IGNORE))
            for item in stored
        ]
    return Source(
        name=name,
        vocabulary=vocabulary,
        train=stored,
        val=store(some_of(val, config.loop.eval_images)),
    )


def _check_words(config: TextTrainConfig, vocabularies: Sequence[Vocabulary]) -> None:
    """Refuse words held out that are none of the data, and foreign ones that are."""
    words = {name for vocabulary in vocabularies for name in vocabulary.class_names}
    if unknown := sorted(set(config.held_out) - words):
        raise InputError(
            f"held_out must name classes of the data, got {', '.join(unknown)}; there are "
            f"{', '.join(sorted(words))}."
        )
    for name, vocabulary in zip(config.data, vocabularies, strict=True):
        if not set(vocabulary.class_names) - set(config.held_out):
            raise InputError(f"held_out leaves no word of {name} to train on; name fewer.")
    own = {name.casefold() for name in words}
    if both := [word for word in config.foreign if word.casefold() in own]:
        raise InputError(
            f"foreign must name what is in no image of the data, got {', '.join(both)}, which are "
            "among its classes; leave them out."
        )


def _check(
    config: TextTrainConfig, model: TextSegmenter, vocabularies: Sequence[Vocabulary]
) -> None:
    """Refuse crops that the network cannot take, and closed codes for what is no word."""
    if any(side % model.stride for side in config.augment.crop):
        raise InputError(
            f"sides of augment.crop must be multiples of {model.stride} for this backbone, got "
            f"{config.augment.crop[0]}x{config.augment.crop[1]}."
        )
    if not model.config.closed:
        return
    model.mask_codec.num_passes(len(model.config.class_names))  # refuses too many
    if vocabularies[0].background is not None:
        raise InputError(
            f"mask_code={config.mask_code!r} needs a word for every class, but {config.data[0]} "
            "has one that says what a thing is not; use binary, or name it in classes.txt."
        )
