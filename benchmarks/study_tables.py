"""Tables of the study: which arms each has, what they change, how they answer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from crispmask.models.refiner import MaskRefiner
from crispmask.models.refiner_config import Sampling
from crispmask.models.segmenters import BaseOutput, Segmenter
from crispmask.predict import refine_views
from crispmask.shapes import Image, Probs
from crispmask.train import RefinerTrainConfig
from study_runs import OtherBase, Run

BASE, CONTROL, DEFAULT = "base", "control", "refined, 1 call"
"""Rows that others are compared with."""

Answer = Callable[[MaskRefiner, Segmenter, Image, BaseOutput, str, Sampling], Probs]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One row.

    Attributes:
        name: of the row.
        changes: of the default recipe; the run is trained if it is new.
        sampling: how the chain is run.
        answer: what is made of it, by default the answer of one chain.
        behind: the base whose outputs are refined, if not the default one.
        compared: rows over which its gain is measured.
    """

    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    sampling: Sampling = field(default_factory=Sampling)
    answer: Answer | None = None
    behind: OtherBase | None = None
    compared: Mapping[str, str] = field(
        default_factory=lambda: {"control": CONTROL, "default": DEFAULT}
    )


def chain(steps: int, **options: Any) -> Sampling:
    return Sampling(num_inference_steps=steps, **options)


def once(
    refiner: MaskRefiner,
    segmenter: Segmenter,
    image: Image,
    base: BaseOutput,
    name: str,
    sampling: Sampling,
) -> Probs:
    """The answer of one chain."""
    probs: Probs = refiner(
        image,
        base,
        num_inference_steps=sampling.num_inference_steps,
        guidance_scale=sampling.guidance_scale,
        eta=sampling.eta,
        start=sampling.start,
        average_last=sampling.average_last,
        seed=sampling.seed,
        names=[name],
    ).probs
    return probs


def eight_seeds(
    refiner: MaskRefiner,
    segmenter: Segmenter,
    image: Image,
    base: BaseOutput,
    name: str,
    sampling: Sampling,
) -> Probs:
    """Mean probabilities of eight chains."""
    chains = [once(refiner, segmenter, image, base, f"{name}/{i}", sampling) for i in range(8)]
    return torch.stack(chains).mean(0)


def views(scales: Sequence[float]) -> Answer:
    """Mean over these scales and mirror images; base and refiner see each."""

    def answer(
        refiner: MaskRefiner,
        segmenter: Segmenter,
        image: Image,
        base: BaseOutput,
        name: str,
        sampling: Sampling,
    ) -> Probs:
        refine = partial(
            refiner,
            num_inference_steps=sampling.num_inference_steps,
            seed=sampling.seed,
            names=[name],
        )
        return refine_views(segmenter, refine, image, scales=scales)

    return answer


def behind(base: OtherBase) -> list[Arm]:
    """Default control and refiner, which never saw this base, and those trained behind it."""
    folder = str(base.run.folder)
    control = f"{base.name} + control"

    def arm(name: str, changes: dict[str, Any], against: str, calls: int = 1) -> Arm:
        compared = {"base": base.name, "control": against}
        if name == against:
            del compared["control"]
        return Arm(
            name=name, changes=changes, sampling=chain(calls), behind=base, compared=compared
        )

    unseen = [
        arm(f"{control}, unseen", {"state_input": False}, f"{control}, unseen"),
        arm(f"{base.name} + refiner, unseen", {}, f"{control}, unseen"),
    ]
    if not base.learned:
        return unseen
    return [
        *unseen,
        arm(control, {"base": folder, "state_input": False}, control),
        *(arm(f"{base.name} + refiner, {calls(n)}", {"base": folder}, control, n) for n in (1, 3)),
    ]


def calls(number: int) -> str:
    return f"{number} call{'s' if number > 1 else ''}"


def tables(
    default: RefinerTrainConfig, others: Sequence[OtherBase], codec: Run
) -> dict[str, list[Arm]]:
    """Arms of each table; every table also has base, base + flip, filter, control, default."""
    patch = default.patch_size * default.stride  # the network sees the same positions

    def trained(name: str, *steps: int, **changes: Any) -> list[Arm]:
        return [Arm(name=f"{name}, {calls(n)}", changes=changes, sampling=chain(n)) for n in steps]

    def beside(name: str, **changes: Any) -> list[Arm]:
        """With its own control: another condition or codec changes the head, too."""
        control = f"{name}, control"
        return [
            *(
                replace(arm, compared={**arm.compared, "control": control})
                for arm in trained(name, 1, 3, **changes)
            ),
            Arm(name=control, changes={**changes, "state_input": False}),
        ]

    return {
        "calls": [Arm(name=f"refined, {n} calls", sampling=chain(n)) for n in (2, 3, 5, 10, 20)],
        "noise": [
            *trained("noise on the truth", 1, 3, 10, noise_target="truth"),
            *trained("noise on the base", 1, 3, 10, noise_target="base"),
            *trained("noise on the truth + bound", 1, 10, noise_target="truth", vlb_weight=0.1),
        ],
        "corruption": [
            *trained("truth damaged in its structure", 1, 3, 10, noise_target="damaged"),
            Arm(
                name="damaged, from the base, 3 calls",
                changes={"noise_target": "damaged"},
                sampling=chain(3, start="base"),
            ),
            *trained(
                "damaged, half without condition",
                *(1, 3, 10),
                noise_target="damaged",
                condition_dropout=0.5,
            ),
        ],
        "transition": [
            *trained("absorbing", 1, 10, process="absorbing"),
            *trained("mixed", 1, 10, process="mixed"),
            *trained("cosine schedule", 1, 10, schedule="cosine"),
        ],
        "reverse": [
            Arm(
                name=f"{what}, eta {eta:g}, 10 calls",
                changes=changes,
                sampling=chain(10, eta=eta),
            )
            for what, changes in (
                ("noise on first prediction", {}),
                ("noise on the truth", {"noise_target": "truth"}),
            )
            for eta in (0.0, 0.5, 1.0)
        ],
        "guidance": [
            Arm(
                name=f"trained with dropout, guidance {s:g}, 3 calls",
                changes={"condition_dropout": 0.1},
                sampling=chain(3, guidance_scale=s),
            )
            for s in (1.0, 1.4, 2.0, 4.0)
        ],
        "start": [
            Arm(name=f"from the base, {calls(n)}", sampling=chain(n, start="base"))
            for n in (1, 2, 3, 10)
        ],
        "condition": [
            *beside("features", conditioning="features"),
            *beside("log-probabilities", conditioning="logits"),
            *beside("mask", conditioning="mask"),
        ],
        "codec": [
            *beside("stride 1", stride=1, patch_size=patch),
            *beside("stride 4", stride=4, patch_size=patch // 4),
            *beside("learned codec", codec=str(codec.folder), stride=4, patch_size=patch // 4),
        ],
        "stages": [
            *trained("one stage", 1, 10, first_stage=0.0),
            *trained("first stage only", 1, 10, first_stage=1.0),
        ],
        "averaging": [
            Arm(name="10 calls, last 3 averaged", sampling=chain(10, average_last=3)),
            Arm(name="10 calls, all averaged", sampling=chain(10, average_last=10)),
            Arm(name="3 calls, 8 seeds averaged", sampling=chain(3), answer=eight_seeds),
            Arm(name="1 call, flip", answer=views((1.0,))),
            Arm(name="1 call, 12 views", answer=views((0.5, 0.75, 1.0, 1.25, 1.5, 1.75))),
        ],
        "bases": [arm for base in others for arm in behind(base)],
    }
