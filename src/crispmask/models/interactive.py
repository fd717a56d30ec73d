"""One image that a person corrects: all but the chain is computed once."""

from dataclasses import replace
from typing import Any

import torch

from crispmask.diffusion.categorical import image_generators
from crispmask.errors import InputError
from crispmask.models.refiner import MaskRefiner
from crispmask.models.refiner_config import Sampling
from crispmask.models.refiner_parts import RefinerOutput


class Correction:
    """The refined mask of one image, again and again as more of it becomes known.

    ``Correction(refiner, image, base)`` looks at the image once; each call of it with known labels
    runs the chain alone and answers exactly as ``refiner(image, base, known=known)`` does.
    """

    @torch.inference_mode()
    def __init__(self, refiner: MaskRefiner, image: Any, base: Any, *, name: str = "0") -> None:
        """Look at the image.

        Args:
            refiner: the model.
            image: as `MaskRefiner` takes it, one alone.
            base: likewise.
            name: of the image; its noise depends on it.

        Raises:
            InputError: if image or base cannot be used, or there are several.
        """
        self.refiner = refiner
        self.name = name
        pixels, given = refiner.inputs(image, base)
        if len(pixels) != 1:
            raise InputError(f"one image is corrected at a time, got {len(pixels)}.")
        self.base = replace(given, probs=given.probs.clone())  # the caller's may change
        with refiner.inferring():
            padded, self.seen = refiner.pad(pixels, refiner.visible(self.base))
            self.condition = refiner.condition(padded, self.seen)

    @torch.inference_mode()
    def __call__(self, known: Any = None, *, sampling: Sampling | None = None) -> RefinerOutput:
        """The mask, given what is known by now.

        Args:
            known: labels that are certain, as `MaskRefiner` takes them.
            sampling: options of the chain, without guidance; one call by default.

        Raises:
            InputError: if the known labels cannot be used, or guidance is asked for.
        """
        refiner, sampling = self.refiner, sampling or Sampling()
        if sampling.guidance_scale != 1:
            raise InputError(
                f"a correction has no guidance, got a guidance_scale of {sampling.guidance_scale}; "
                "leave it at 1, or call the refiner itself."
            )
        certain = refiner.known(known, self.base, names=[self.name])
        generators = image_generators(sampling.seed, [self.name])
        with refiner.inferring():
            condition = self.condition
            if certain is not None:
                condition = refiner.informed(condition, refiner.known_state(certain))
            bound = refiner.bound(condition)
            x_start = refiner.start(self.seen, bound.log_base, sampling, generators)
            result = refiner.sample(bound.denoise, x_start, sampling, generators)
        return RefinerOutput(
            probs=refiner.answer(
                result.logits, bound.log_base, self.base, gate=sampling.gate, known=certain
            ),
            trace=result.trace,
            num_calls=result.num_calls,
        )
