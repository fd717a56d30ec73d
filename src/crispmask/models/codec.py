"""CodecModel: a `MaskCodec` that knows what its classes are called, as a folder."""

from dataclasses import dataclass

from torch import Tensor, nn

from crispmask.data.transforms import pad_to_multiple
from crispmask.models.checkpoint import Pretrained
from crispmask.nn.mask_codec import MaskCodec, MaskCodecConfig
from crispmask.shapes import Logits, Mask


@dataclass(frozen=True, kw_only=True)
class CodecConfig:
    """What a `CodecModel` is made of.

    Attributes:
        class_names: names in the order of the ids.
        network: size of the codec.
    """

    class_names: tuple[str, ...]
    network: MaskCodecConfig

    def __post_init__(self) -> None:
        if len(self.class_names) != self.network.num_classes:
            raise ValueError(
                f"class_names has {len(self.class_names)} names, the network "
                f"{self.network.num_classes} classes; give one name for each class."
            )


class CodecModel(nn.Module, Pretrained):
    """A learned codec of masks, for refiners whose noisy mask is one of codes.

    ``CodecModel.from_pretrained("runs/codec")`` loads one; ``network`` encodes and decodes.
    """

    config_class = CodecConfig
    part = "codec"

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.config = config
        self.network = MaskCodec(config.network)

    def forward(self, mask: Mask) -> Logits:
        """Logits of what the codec keeps of masks of any size, differentiable."""
        padded, (h, w) = pad_to_multiple(mask, self.config.network.stride)
        logits: Tensor = self.network(padded)
        return logits[..., :h, :w]
