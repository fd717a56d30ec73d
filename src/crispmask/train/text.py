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
from crispmask.models.mask_images import fill_unknown
from crispmask.models.text_adapter import fingerprint
from crispmask.models.text_config import pass_prompts
from crispmask.models.text_folder import find_segmenter, is_segmenter
from crispmask.models.text_segmenter import TextSegmenter
from crispmask.models.vocabulary import Vocabulary
from crispmask.shapes import IGNORE
from crispmask.train.batches import Stored, draw, some_of, store
from crispmask.train.collapse import stop_if_collapsed
from crispmask.train.loop import Task
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
from crispmask.train.text_model import new_text_segmenter, save_trained
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
    facts: dict[str, Any] = {}
    if is_segmenter(config.backbone):
        sha256 = fingerprint(find_segmenter(config.backbone))
        facts = {"base": config.backbone, "base_sha256": sha256}
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
        save=partial(save_trained, config, facts.get("base_sha256")),
    )
    return task, facts | {
        "train_images": sum(len(source.train) for source in sources),
        "val_images": sum(len(source.val) for source in sources),
        "words": len(names),
        "sentences": len(states.pooled),
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }


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
