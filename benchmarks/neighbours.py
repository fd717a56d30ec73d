"""Do the decided labels of neighbouring windows help the next one, and do the seams go?

    python benchmarks/neighbours.py earth --runs runs

Each image is refined in windows of 80 pixels that share 32, in four ways: the windows alone, the
earlier one deciding where two overlap; the labels that earlier windows decided as known evidence
for the later; one noisy mask over all windows, their logits blended (`refine_windows`); and the
image as one. Beside the scores stands how often labels change where a window begins or ends, as a
multiple of how often they change elsewhere; what the image as one has is no seam (more than 1 where
the base's grid lies there). Expects the runs DATA-control-SEED, DATA-refiner-SEED,
DATA-evidence-SEED and DATA-evidence-control-SEED.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int64
from torch import Tensor

from crispmask.data.source import open_split
from crispmask.evaluate import Row, evaluate
from crispmask.models.refiner import MaskRefiner
from crispmask.models.refiner_config import Sampling
from crispmask.models.segmenters import BaseOutput, FPNSegmenter
from crispmask.models.windows import windows
from crispmask.predict import refine_windows
from crispmask.shapes import IGNORE, Image, Probs
from earth_models import RESULTS, save
from evidence import summary
from first_light import seeds

WINDOW, OVERLAP = 80, 32


@dataclass
class Seams:
    """How often the labels of neighbouring pixels differ, at the edges of windows and elsewhere."""

    at_edges: int = 0
    edges: int = 0
    elsewhere: int = 0
    others: int = 0

    def update(self, labels: Int64[Tensor, "h w"]) -> None:
        for lines in (labels, labels.T):
            size = lines.shape[0]
            starts = {top for top, _ in windows(size, WINDOW, window=WINDOW, overlap=OVERLAP)}
            cuts = {start for start in starts if start} | {s + WINDOW for s in starts}
            for line in range(1, size):
                differ = int((lines[line] != lines[line - 1]).sum())
                if line in cuts:
                    self.at_edges += differ
                    self.edges += lines.shape[1]
                else:
                    self.elsewhere += differ
                    self.others += lines.shape[1]

    def ratio(self) -> float:
        """How often labels change at the edges of windows, over how often elsewhere."""
        return self.at_edges / self.edges / (self.elsewhere / self.others)


Answer = Callable[[MaskRefiner, Image, BaseOutput, str, int], Probs]


def as_one(model: MaskRefiner, image: Image, base: BaseOutput, name: str, seed: int) -> Probs:
    probs: Probs = model(image, base, seed=seed, names=[name]).probs
    return probs


def blended(model: MaskRefiner, image: Image, base: BaseOutput, name: str, seed: int) -> Probs:
    sampling = Sampling(seed=seed, gate=model.config.gate)
    return refine_windows(
        model, image, base, window=WINDOW, overlap=OVERLAP, sampling=sampling, name=name
    ).probs


def one_by_one(*, tell: bool) -> Answer:
    """Windows in their order; the earlier decides, and with ``tell`` says so to the later."""

    def answer(model: MaskRefiner, image: Image, base: BaseOutput, name: str, seed: int) -> Probs:
        result = base.probs.clone()
        decided = torch.full(image.shape[-2:], IGNORE)
        for top, left in windows(*decided.shape, window=WINDOW, overlap=OVERLAP):
            place = (..., slice(top, top + WINDOW), slice(left, left + WINDOW))
            here = decided[place]
            probs = model(
                image[place],
                BaseOutput(probs=base.probs[place]),
                known=here if tell and (here != IGNORE).any() else None,
                seed=seed,
                names=[name],
            ).probs
            new = here == IGNORE
            result[place] = torch.where(new, probs, result[place])
            decided[place] = torch.where(new, probs.argmax(1)[0], here)
        return result

    return answer


ARMS: dict[str, tuple[str, Answer]] = {
    "control, windows alone": ("control", one_by_one(tell=False)),
    "control, blended": ("control", blended),
    "control, as one": ("control", as_one),
    "refined, windows alone": ("refiner", one_by_one(tell=False)),
    "refined, one mask, blended": ("refiner", blended),
    "refined, as one": ("refiner", as_one),
    "evidence as input, windows alone": ("evidence-control", one_by_one(tell=False)),
    "evidence as input, neighbours known": ("evidence-control", one_by_one(tell=True)),
    "evidence in the state, windows alone": ("evidence", one_by_one(tell=False)),
    "evidence in the state, neighbours known": ("evidence", one_by_one(tell=True)),
}
"""Which model answers how, by the name of the row."""


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", choices=["earth", "camvid"])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--limit", type=int, default=None, help="use only so many images")
    args = parser.parse_args()
    data = open_split(args.data, "test" if args.data == "earth" else "val")
    base = FPNSegmenter.from_pretrained(args.runs / f"{args.data}-base")
    models = {
        kind: [MaskRefiner.from_pretrained(p) for p in seeds(args.runs, f"{args.data}-{kind}")]
        for kind in sorted({kind for kind, _ in ARMS.values()})
    }
    seams: dict[str, list[Seams]] = {}
    truth = Seams()

    def counted(
        model: MaskRefiner, answer: Answer, seed: int, found: Seams
    ) -> Callable[..., Probs]:
        def predict(image: Image, seen: BaseOutput, name: str) -> Probs:
            probs = answer(model, image, seen, name, seed)
            found.update(probs.argmax(1)[0])
            return probs

        return predict

    rows = [Row(name="base", predictors=(lambda image, seen, name: seen.probs,))]
    for name, (kind, answer) in ARMS.items():
        seams[name] = [Seams() for _ in models[kind]]
        made = [
            counted(model, answer, seed, found)
            for seed, (model, found) in enumerate(zip(models[kind], seams[name], strict=True))
        ]
        alone = f"{name.split(',')[0]}, windows alone"
        compared = {} if name == alone else {"windows alone": alone}
        rows.append(Row(name=name, predictors=tuple(made), compared=compared))
    report = evaluate(data, base, rows, title=f"{args.data}: windows", limit=args.limit, pictures=0)
    for i in range(len(data)):
        truth.update(data[i].mask)
    ratios = {name: [one.ratio() for one in found] for name, found in seams.items()}
    print(report.markdown())
    for name, found in (ratios | {"truth": [truth.ratio()]}).items():
        print(f"{name}: labels change {sum(found) / len(found):.2f} times as often at the edges")
    save(
        f"neighbours_{args.data}",
        {
            "protocol": dict(report.protocol),
            "rows": summary(report),
            "edges": ratios | {"true masks": [truth.ratio()]},
        },
        args.output,
    )


if __name__ == "__main__":
    main()
