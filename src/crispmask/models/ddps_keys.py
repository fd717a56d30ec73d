"""Which tensor of an official DDPS checkpoint is which of ours.

The layout is that of mmsegmentation 0.x: a SegFormer of which the decode head holds neck, U-Net,
label table and noise schedule (Lai et al. 2023, github.com/OpenGVLab/DDPS).
"""

import re
from collections.abc import Sequence

from torch import Tensor

Names = Sequence[tuple[str, str]]

BASE_NAMES: Names = (
    (r"^neck\.stages\.(\d)\.0\.", r"decode_head.convs.\1.conv."),
    (r"^neck\.stages\.(\d)\.1\.", r"decode_head.convs.\1.bn."),
    (r"^neck\.fuse\.0\.", r"decode_head.fusion_conv.conv."),
    (r"^neck\.fuse\.1\.", r"decode_head.fusion_conv.bn."),
    (r"^backbone\.stages\.", r"backbone.layers."),
    (r"\.patch_embeddings\.proj\.", r".0.projection."),
    (r"\.patch_embeddings\.layer_norm\.", r".0.norm."),
    (r"^(backbone\.layers\.\d)\.layer_norm\.", r"\1.2."),
    (r"\.blocks\.(\d+)\.layernorm_before\.", r".1.\1.norm1."),
    (r"\.blocks\.(\d+)\.layernorm_after\.", r".1.\1.norm2."),
    (r"\.blocks\.(\d+)\.attention\.[qkv]_proj\.", r".1.\1.attn.attn.in_proj_"),
    (r"\.blocks\.(\d+)\.attention\.o_proj\.", r".1.\1.attn.attn.out_proj."),
    (r"\.blocks\.(\d+)\.attention\.sequence_reduction\.sequence_reduction\.", r".1.\1.attn.sr."),
    (r"\.blocks\.(\d+)\.attention\.sequence_reduction\.layer_norm\.", r".1.\1.attn.norm."),
    (r"\.blocks\.(\d+)\.mlp\.fc1\.", r".1.\1.ffn.layers.0."),
    (r"\.blocks\.(\d+)\.mlp\.dwconv\.dwconv\.", r".1.\1.ffn.layers.1."),
    (r"\.blocks\.(\d+)\.mlp\.fc2\.", r".1.\1.ffn.layers.4."),
)
"""Substitutions that turn a name of `SegformerBase` into the official one, in this order."""

REFINER_NAMES: Names = (
    (r"^network\.classifier\.", r"decode_head.conv_seg_new."),
    (r"^network\.embed\.", r"decode_head.embed."),
    (r"^network\.", r"decode_head.unet."),
    (r"\.stem(_state)?\.", r".init_conv."),
    (r"\.time\.0\.", r".time_mlp.1."),
    (r"\.time\.2\.", r".time_mlp.3."),
    (r"\.(down|up)\.(\d+)\.blocks\.(\d+)\.", r".\1s.\2.\3."),
    (r"\.(down|up)\.(\d+)\.attention\.out\.0\.", r".\1s.\2.2.fn.fn.to_out.0."),
    (r"\.(down|up)\.(\d+)\.attention\.out\.1\.gain$", r".\1s.\2.2.fn.fn.to_out.1.g"),
    (r"\.(down|up)\.(\d+)\.attention\.", r".\1s.\2.2.attention."),
    (r"\.(down|up)\.(\d+)\.resize\.", r".\1s.\2.3."),
    (r"\.middle_attention\.out\.", r".mid_attn.fn.fn.to_out."),
    (r"\.middle_attention\.", r".mid_attn.attention."),
    (r"\.attention\.qkv\.", r".fn.fn.to_qkv."),
    (r"\.attention\.norm\.gain$", r".fn.norm.g"),
    (r"\.middle_in\.", r".mid_block1."),
    (r"\.middle_out\.", r".mid_block2."),
    (r"\.final\.", r".final_res_block."),
    (r"\.film\.1\.", r".mlp.1."),
    (r"\.first\.conv\.", r".block1.proj."),
    (r"\.first\.norm\.", r".block1.norm."),
    (r"\.second\.conv\.", r".block2.proj."),
    (r"\.second\.norm\.", r".block2.norm."),
    (r"\.shortcut\.", r".res_conv."),
    (r"\.unet\.head\.", r".unet.final_conv."),
)
"""Substitutions that turn a name of `MaskRefiner` into the official one, in this order."""

IGNORED = (
    (r"\.num_batches_tracked$", "counts training steps, nothing reads it"),
    (r"^decode_head\.log_(cumprod_)?[ab]t$", "noise schedule, checked and computed anew"),
    (r"^decode_head\.conv_seg\.(weight|bias)$", "classifier of the base, unused by the method"),
)
"""Official tensors that are not taken over, and why."""


def official_name(name: str, names: Names) -> str:
    """The official name of one of our tensors."""
    for pattern, replacement in names:
        name = re.sub(pattern, replacement, name)
    return name


def why_ignored(key: str) -> str:
    """Why an official tensor is not taken over; empty if it must be."""
    return next((reason for pattern, reason in IGNORED if re.search(pattern, key)), "")


def our_part(name: str, tensor: Tensor, *, feature_channels: int) -> Tensor:
    """The part of an official tensor that belongs to our tensor of this name.

    The official attention stacks q, k and v; the first MLP layers are 1x1 convolutions; and the
    stem reads features and label embeddings in one convolution, in this order.
    """
    stacked = re.search(r"\.attention\.([qkv])_proj\.", name)
    if stacked and tensor.ndim:
        third = -(-len(tensor) // 3)
        start = third * "qkv".index(stacked[1])
        return tensor[start : start + third]
    if re.search(r"\.mlp\.fc[12]\.weight$", name) and tensor.shape[2:] == (1, 1):
        return tensor.flatten(1)
    if name == "network.stem.weight" and tensor.ndim == 4:
        return tensor[:, :feature_channels]
    if name == "network.stem_state.weight" and tensor.ndim == 4:
        return tensor[:, feature_channels:]
    return tensor
