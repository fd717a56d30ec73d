"""Does a segmenter of words find a colour and a shape together that it never saw together?

    python benchmarks/held_out_pairs.py --seeds 0 1

Trains a `TextSegmenter` from random weights on the drawn scenes of `crispmask.data.scenes` and asks
it for every pair of a colour and a shape in each of the first test scenes. Nothing of its backbone
is pretrained: the VAE is set by hand, latents being pictures at half their size, and the text
encoder is a CLIP of random weights whose states are mostly those of the single words. Numbers go to
benchmarks/results/held_out_pairs_STEPS.json.
"""

import argparse
import json
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crispmask.cli.asking import in_own_sentence
from crispmask.data.scenes import COLOURS, HELD_OUT, SCENE_CLASSES, SHAPES, SIZE, scenes
from crispmask.data.transforms import AugmentConfig
from crispmask.evaluate.words import vocabulary_of
from crispmask.models.text_segmenter import TextSegmenter
from crispmask.train import LoopConfig, TextTrainConfig, train
from earth_models import RESULTS, save

WIDTHS = (16, 32)
CHANNELS = 12
TEXT = 32
PAIRS = SCENE_CLASSES[1:]

STEPS = 300

CROP = AugmentConfig(
    crop=(SIZE, SIZE), scale=(1.0, 1.0), brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0
)


def words_config(backbone: Path, *, steps: int, seed: int) -> TextTrainConfig:
    """The segmenter, which is never asked for the pairs of `HELD_OUT`."""
    return TextTrainConfig(
        data=("scenes",),
        backbone=str(backbone),
        loop=LoopConfig(
            steps=steps,
            batch_size=8,
            learning_rate=5e-3,
            warmup_steps=30,
            seed=seed,
            ema_decay=0.98,
            eval_every=steps,
            eval_images=16,
        ),
        augment=CROP,
        template="{}",
        held_out=HELD_OUT,
    )


def write_backbone(folder: Path, *, seed: int) -> Path:
    """A folder as diffusers saves Stable Diffusion 1.x: random weights but for the VAE's."""
    from diffusers import DDIMScheduler, UNet2DConditionModel

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=SIZE // 4,
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            block_out_channels=WIDTHS,
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D",) * 2,
            up_block_types=("CrossAttnUpBlock2D",) * 2,
            cross_attention_dim=TEXT,
            attention_head_dim=2,
            norm_num_groups=8,
        )
        write_words(folder)
    unet.save_pretrained(folder / "unet")
    DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
    ).save_pretrained(folder / "scheduler")
    folding_vae().save_pretrained(folder / "vae")
    index = {"_class_name": "StableDiffusionPipeline"}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@torch.no_grad()
def folding_vae() -> Any:
    """An `AutoencoderTiny` of stride 4: 12 latents are 2 x 2 pixels of the picture at half size.

    A mask goes through it without any training. It gives back the means of 4 x 4 pixels.
    """
    from diffusers import AutoencoderTiny

    every, none = (CHANNELS,) * 3, (0,) * 3
    vae: Any = AutoencoderTiny(
        encoder_block_out_channels=every,
        decoder_block_out_channels=every,
        num_encoder_blocks=none,
        num_decoder_blocks=none,
        latent_channels=CHANNELS,
        scaling_factor=2.0,
    )
    for parameter in vae.parameters():
        parameter.zero_()
    colours, latents = torch.arange(3), torch.arange(CHANNELS)
    enter, halve, fold, scale = (vae.encoder.layers[i] for i in range(4))
    enter.weight[colours, colours, 1, 1] = 1
    halve.weight[colours, colours, 1:, 1:] = 1 / 4
    for i in range(4):
        fold.weight[3 * i + colours, colours, 1 + i // 2, 1 + i % 2] = 1
    scale.weight[latents, latents, 1, 1] = 2  # diffusers shows the encoder [0, 1]
    scale.bias.fill_(-1)
    mean, *rest = (vae.decoder.layers[i] for i in (0, 3, 5, 6))
    mean.weight[latents % 3, latents, 1, 1] = 1 / 8
    mean.bias[:3] = 1 / 2
    for layer in rest:
        layer.weight[colours, colours, 1, 1] = 1
    return vae


def write_words(folder: Path) -> None:
    """A tokenizer of whole words and a CLIP whose states are mostly those of its tokens."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    words = (*COLOURS, *SHAPES)
    letters = sorted(set("".join(words)))
    ends = {word[i:] for word in words for i in range(len(word))}  # of words, whole ones included
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters]
    tokens += [f"{end}</w>" for end in sorted({*ends, *letters}, key=lambda end: (len(end), end))]
    merges = [(end[0], f"{end[1:]}</w>") for end in sorted(ends, key=len) if len(end) > 1]
    kind: Any = CLIPTokenizer
    tokenizer = kind(
        vocab={token: i for i, token in enumerate(tokens)}, merges=merges, model_max_length=4
    )
    encoder: Any = CLIPTextModel(
        CLIPTextConfig(
            hidden_size=TEXT,
            intermediate_size=TEXT,
            num_hidden_layers=1,
            num_attention_heads=2,
            vocab_size=len(tokens),
            max_position_embeddings=4,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    )
    for name, weight in encoder.named_parameters():
        if name.endswith("token_embedding.weight"):
            torch.nn.init.normal_(weight, std=2.0)  # beside which attention and MLP say little
            torch.nn.init.normal_(weight[:2], std=0.02)  # begin and end, alike in all texts
    encoder.save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "tokenizer")


def trained(folder: Path, *, steps: int, seed: int) -> TextSegmenter:
    """A segmenter of words trained from nothing, or the one that lies in the folder already."""
    backbone, words = folder / "backbone", folder / "words"
    if not words.exists():
        write_backbone(backbone, seed=seed)
        train(words_config(backbone, steps=steps, seed=seed), words)
    return TextSegmenter.from_pretrained(words)


def exchanged(pair: str) -> dict[str, str]:
    """The pair with the next colour of the list, with the next shape, and with both."""
    colour, shape = pair.split()
    colours = list(COLOURS)
    other = colours[(colours.index(colour) + 1) % len(colours)]
    kind = SHAPES[(SHAPES.index(shape) + 1) % len(SHAPES)]
    return {
        "other colour": f"{other} {shape}",
        "other shape": f"{colour} {kind}",
        "both other": f"{other} {kind}",
    }


@torch.inference_mode()
def measure(model: TextSegmenter, *, limit: int) -> dict[str, float]:
    """Means over the answers to single words in the first test scenes, all in [0, 1].

    A word gets the pixels at which it is likelier than the background; other words do not compete.

    Returns:
        "trained" and "held-out": IoU of pairs that are in the scene, and were asked in training or
        never. "other colour", "other shape", "both other": what "trained" becomes if a wrong word
        is asked, see `exchanged`; with ", held-out" what "held-out" becomes. "all shapes", "colour
        alone", "shape alone": IoU of an answer that is every shape, all of the right colour, or all
        of the right kind, drawn without an error. "swapped": share of the scene's shapes given to
        the trained pair that is not there although its colour and its shape are; "swapped,
        held-out" the same of a held-out pair. "absent": of all other pairs that are not there.
    """
    data = scenes("test")
    ask = model.bound(in_own_sentence(vocabulary_of(SCENE_CLASSES), model), top=None, chunk=20)
    values: dict[str, list[float]] = {}
    for i in range(limit):
        sample = data[i]
        probs = ask(sample.image[None]).probs[0]  # 21 h w, the background first
        found = dict(zip(PAIRS, probs[1:] > probs[:1], strict=True))
        for name, value in scene_scores(found, sample.mask):
            values.setdefault(name, []).append(value)
    return {name: statistics.fmean(found) for name, found in sorted(values.items())}


def scene_scores(found: Mapping[str, Tensor], mask: Tensor) -> Iterator[tuple[str, float]]:
    """The scores of one scene, see `measure`."""
    true = {pair: mask == label for label, pair in enumerate(PAIRS, 1)}
    there = [pair for pair in PAIRS if true[pair].any()]
    shapes = mask > 0
    for pair in PAIRS:
        unseen = pair in HELD_OUT
        alike = [[other for other in there if word in other.split()] for word in pair.split()]
        if pair in there:
            yield "held-out" if unseen else "trained", iou(found[pair], true[pair])
            for name, other in exchanged(pair).items():
                yield f"{name}, held-out" if unseen else name, iou(found[other], true[pair])
            yield "all shapes", iou(shapes, true[pair])
            for name, pairs in zip(("colour alone", "shape alone"), alike, strict=True):
                yield name, iou(torch.stack([true[other] for other in pairs]).any(0), true[pair])
        else:
            given = ((found[pair] & shapes).sum() / shapes.sum()).item()
            kind = "swapped" if all(alike) else "absent"
            yield f"{kind}, held-out" if unseen and all(alike) else kind, given


def iou(found: Tensor, true: Tensor) -> float:
    return ((found & true).sum() / (found | true).sum().clamp(min=1)).item()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--limit", type=int, default=100, help="test scenes at most")
    parser.add_argument("--runs", type=Path, default=Path("runs/held-out-pairs"))
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    found: dict[int, dict[str, float]] = {}
    for seed in args.seeds:
        folder = args.runs / f"{args.steps}-{seed}"
        model = trained(folder, steps=args.steps, seed=seed)
        found[seed] = measure(model, limit=args.limit)
        print(f"seed {seed}: " + ", ".join(f"{n} {100 * v:.1f}" for n, v in found[seed].items()))
    about = {"held_out": HELD_OUT, "steps": args.steps, "scenes": args.limit}
    save(f"held_out_pairs_{args.steps}", {**about, "seeds": found}, args.output)


if __name__ == "__main__":
    main()
