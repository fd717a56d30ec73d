"""TextSegmenter: a pretrained latent diffusion model repurposed to draw the masks of words.

The architecture is that of DiGSeg (Wang et al. 2026, "Diffusion Model as a Generalist Segmentation
Learner", arXiv 2604.24575) as far as its abstract tells.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from crispmask.models.backbone import Backbone, load_backbone
from crispmask.models.text_adapter import adapt, is_adapter, read_adapter_config
from crispmask.models.text_answer import TextAnswer
from crispmask.models.text_config import Decode, TextSegmenterConfig
from crispmask.models.text_denoiser import TextDenoiser
from crispmask.models.text_folder import (
    find_segmenter,
    is_backbone,
    read_heads,
    read_segmenter,
    write_segmenter,
)
from crispmask.models.text_inference import answer
from crispmask.models.text_parts import TextParts, suggested_config
from crispmask.models.text_question import TextSampling, question


class TextSegmenter(TextDenoiser):
    """Segments an image by words that are given with it.

    The U-Net of a latent diffusion model sees the image's latents beside those of a mask, and the
    words through its own cross-attention and through a pathway beside it. It is trained to turn
    noise, or zeros, into the latents of the mask of one query.

    ``TextSegmenter.from_pretrained(folder)`` loads one; calling it with an image and texts gives a
    `TextAnswer`.
    """

    @classmethod
    def from_backbone(cls, backbone: Backbone, **changes: Any) -> Self:
        """A segmenter on a pretrained backbone, with new heads of its sizes.

        Args:
            backbone: of `load_backbone`.
            changes: other values of `TextSegmenterConfig` than those that the backbone suggests.
        """
        return cls(
            TextSegmenterConfig(**{**suggested_config(backbone), **changes}),
            unet=backbone.unet,
            vae=backbone.vae,
            words=backbone.words,
            scheduler=backbone.scheduler,
        )

    @classmethod
    def from_pretrained(cls, name: str | Path) -> Self:
        """The segmenter of a bundled name or a folder, in evaluation mode, offline.

        Args:
            name: a folder that `save_pretrained` wrote; an adapter's, whose base is loaded with it
                and must be where it was; or one of Stable Diffusion 1.x or 2.x or Marigold as
                diffusers saves it, whose heads are new and must be trained.

        Raises:
            InputError: if there is none, or a part is missing, damaged or of another model.
        """
        folder = find_segmenter(name)
        if is_backbone(folder):
            return cls.from_backbone(load_backbone(folder)).eval()
        if is_adapter(folder):
            return cls._from_adapter(folder)
        config, parts = read_segmenter(folder)
        model = cls(
            config,
            unet=parts.unet,
            vae=parts.vae,
            words=parts.words,
            scheduler=parts.scheduler,
        )
        model.heads.load_state_dict(read_heads(folder, model.heads.state_dict()))
        return model.eval()

    @classmethod
    def _from_adapter(cls, folder: Path) -> Self:
        config = read_adapter_config(folder)
        base = cls.from_pretrained(config.base)
        model = cls(
            config.segmenter,
            unet=base.unet,
            vae=base.codec.vae,
            words=base.words,
            scheduler=base.scheduler,
        )
        heads = adapt(folder, config, model.unet, model.heads.state_dict())
        model.heads.load_state_dict(heads)
        return model.eval()

    def save_pretrained(self, folder: Path | str, *, half: bool = False) -> None:
        """Write a folder that `from_pretrained` reads: it appears whole or not at all.

        Args:
            folder: new, or one in which the files of a segmenter are replaced.
            half: store the weights in fp16, half the size; they are loaded as float32.
        """
        parts = TextParts(
            unet=self.unet, vae=self.codec.vae, words=self.words, scheduler=self.scheduler
        )
        write_segmenter(Path(folder), self.config, parts, self.heads.state_dict(), half=half)

    def forward(
        self,
        image: Any,
        texts: Any,
        *,
        num_inference_steps: int = 1,
        top: int | None = 32,
        pinned: Sequence[str] = (),
        among: Sequence[int] | None = None,
        decode: Decode | None = None,
        guidance_scale: float = 1.0,
        negative: str = "",
        seed: int = 0,
        flip: bool = False,
        ensemble_size: int = 1,
        tile: int = 0,
        overlap: float = 1 / 3,
        chunk: int = 8,
        start: Any = None,
        strength: float = 0.5,
    ) -> TextAnswer:
        """Labels, probabilities, presence and uncertainty of one image.

        One call with the empty prompt ranks the queries, then each that is kept is drawn. The
        score of a query is ``mask logit + align_weight * align score + presence_weight * log
        sigmoid(presence logit)``, that of a class the best of its queries', at the size of the
        image; the softmax over classes gives the probabilities.

        Args:
            image: path, PIL image, h w 3 array or tensor (1) 3 h w in [0, 1].
            texts: words in a list, in a mapping to their synonyms, in one text with commas, the
                name of a class list, or a `Vocabulary`. Words leave no background: each pixel gets
                the one that suits it best. A single word is told from the rest of the image, as
                with ``Vocabulary(class_names=(word,), background=Threshold(score=0.4))``.
            num_inference_steps: calls for each query, exactly.
            top: queries at most that are drawn, those with the largest probability at any pixel
                by the ranking's part of the score alone; None draws all. A closed mask code always
                draws all.
            pinned: words that are drawn wherever they rank.
            among: the only classes that may be answered, the background aside, also of ``pinned``.
            decode: "light" or "vae"; the model's own by default.
            guidance_scale: s in ``negative + s (query - negative)``; 1 is off. For models that
                were trained with dropped prompts. It moves the latents; the light decoder reads the
                features of the query as ever.
            negative: prompt that guidance leads away from.
            seed: of the noise, which all queries of an image share; without effect if the model
                starts from zeros.
            flip: average with the answer for the mirror image.
            ensemble_size: average over so many seeds.
            tile: side in pixels of windows in which a larger image is drawn, too, the average
                with the answer for the whole counting; 0 for none. The ranking sees the whole.
            overlap: share that neighbouring windows have in common.
            chunk: queries that go through the network at once; only memory and time depend on it.
            start: labels to go on from in place of noise, as an answer gives them, corrected by
                hand for instance: path of a label picture, array or tensor h w, `IGNORE` (255)
                where unknown, which takes the nearest label. Without a known pixel the answer is
                that without start. For models that were trained for many steps. It moves the masks
                alone: which words are drawn, and what else counts in the score, stays as it is.
            strength: time in (0, 1] to which the masks of ``start`` are noised before the first
                call (SDEdit, Meng et al. 2022, arXiv 2108.01073); at 1 nothing is left of them.
                Without effect if there is no ``start``.

        Raises:
            InputError: if a text, the image, ``start`` or an option cannot be used.
        """
        ask = self.bound(
            texts,
            num_inference_steps=num_inference_steps,
            top=top,
            pinned=pinned,
            decode=decode,
            guidance_scale=guidance_scale,
            negative=negative,
            seed=seed,
            flip=flip,
            ensemble_size=ensemble_size,
            tile=tile,
            overlap=overlap,
            chunk=chunk,
            strength=strength,
        )
        return ask(image, among=among, start=start)

    def bound(self, texts: Any, **options: Any) -> Callable[..., TextAnswer]:
        """A function of an image, of ``among`` and of ``start``, that asks for these texts.

        Args:
            texts: as `forward` takes them; their states are computed here, once.
            options: others of `forward`.

        Raises:
            InputError: if a text or an option cannot be used.
        """
        asked = question(self, texts, TextSampling(**options))

        def ask(image: Any, *, among: Sequence[int] | None = None, start: Any = None) -> TextAnswer:
            return answer(self, image, asked, among=among, start=start)

        return ask
