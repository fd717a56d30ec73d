"""Folders as diffusers saves Stable Diffusion 1.x and 2.x and Marigold: tiny ones, and configs.

The tiny ones have random weights and the layout, names and options of the published ones. The
full-size configs hold what the published model cards and papers say of the architectures.
"""

import json
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, DDIMScheduler, PNDMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

Layout = Literal["sd1", "sd2", "marigold"]

PIPELINES = {
    "sd1": "StableDiffusionPipeline",
    "sd2": "StableDiffusionPipeline",
    "marigold": "MarigoldDepthPipeline",
}

BETAS: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
}

TEXT_WIDTH = {"sd1": 16, "sd2": 32, "marigold": 32}


def tiny_tokenizer() -> CLIPTokenizer:
    """A tokenizer of single letters."""
    letters = [chr(97 + i) for i in range(26)]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{c}</w>" for c in letters)]
    return CLIPTokenizer(
        vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=12
    )


def tiny_unet(layout: Layout, **changes: Any) -> UNet2DConditionModel:
    options: dict[str, Any] = {
        "sample_size": 8,
        "in_channels": 8 if layout == "marigold" else 4,
        "out_channels": 4,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": TEXT_WIDTH[layout],
        "attention_head_dim": 4 if layout == "sd1" else (1, 2),
        "use_linear_projection": layout != "sd1",
        "norm_num_groups": 4,
        **changes,
    }
    return UNet2DConditionModel(**options)


def tiny_text_encoder(layout: Layout, tokens: int) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            hidden_size=TEXT_WIDTH[layout],
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            vocab_size=tokens,
            max_position_embeddings=12,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    )


def tiny_vae(**changes: Any) -> AutoencoderKL:
    options: dict[str, Any] = {
        "block_out_channels": (4, 8),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "norm_num_groups": 2,
        "scaling_factor": 0.18215,
        **changes,
    }
    return AutoencoderKL(**options)


def tiny_scheduler(layout: Layout) -> Any:
    if layout == "sd1":
        return PNDMScheduler(**BETAS, skip_prk_steps=True, steps_offset=1)
    return DDIMScheduler(
        **BETAS, prediction_type="v_prediction", set_alpha_to_one=False, clip_sample=False
    )


def write_backbone(folder: Path, layout: Layout) -> Path:
    """A folder of random weights, and its path."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = tiny_tokenizer()
        tiny_unet(layout).save_pretrained(folder / "unet")
        tiny_vae().save_pretrained(folder / "vae")
        tiny_text_encoder(layout, len(tokenizer)).save_pretrained(folder / "text_encoder")
        tokenizer.save_pretrained(folder / "tokenizer")
        tiny_scheduler(layout).save_pretrained(folder / "scheduler")
    write_index(folder, layout)
    return folder


def write_index(folder: Path, layout: Layout) -> None:
    """``model_index.json`` as the pipelines write it."""
    index = {
        "_class_name": PIPELINES[layout],
        "_diffusers_version": "0.42.1",
        "scheduler": ["diffusers", "PNDMScheduler" if layout == "sd1" else "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))


FULL_UNET: dict[str, Any] = {
    "_class_name": "UNet2DConditionModel",
    "act_fn": "silu",
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}

FULL: dict[str, dict[str, dict[str, Any]]] = {
    "sd1": {
        "unet": {
            **FULL_UNET,
            "attention_head_dim": 8,
            "cross_attention_dim": 768,
            "sample_size": 64,
        },
        "text_encoder": {
            "hidden_act": "quick_gelu",
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_attention_heads": 12,
            "num_hidden_layers": 12,
            "projection_dim": 768,
        },
    },
    "sd2": {
        "unet": {
            **FULL_UNET,
            "attention_head_dim": [5, 10, 20, 20],
            "cross_attention_dim": 1024,
            "sample_size": 96,
            "upcast_attention": True,
            "use_linear_projection": True,
        },
        "text_encoder": {
            "hidden_act": "gelu",
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_attention_heads": 16,
            "num_hidden_layers": 23,
            "projection_dim": 512,
        },
    },
}

FULL_VAE: dict[str, Any] = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 512,
    "scaling_factor": 0.18215,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}


def write_full_size(folder: Path, layout: Literal["sd1", "sd2"]) -> Path:
    """The configs of the published models, without weights; the tokenizer is a tiny one."""
    text = {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "max_position_embeddings": 77,
        "vocab_size": 49408,
        **FULL[layout]["text_encoder"],
    }
    parts = {"unet": FULL[layout]["unet"], "vae": FULL_VAE, "text_encoder": text}
    for part, config in parts.items():
        (folder / part).mkdir(parents=True)
        (folder / part / "config.json").write_text(json.dumps(config))
    tiny_tokenizer().save_pretrained(folder / "tokenizer")
    tiny_scheduler(layout).save_pretrained(folder / "scheduler")
    write_index(folder, layout)
    return folder
