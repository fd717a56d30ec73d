"""Copy a trained segmenter of words into the package, in half precision, with its card.

    python scripts/ship_text.py runs/text-earth --scores SCORES.json

The weights of the parts of a score, and the floor under it, are fitted again to validation images,
as the training does at its end. The scores are those that `benchmarks/words.py` wrote for the same
folder. The text encoder, MiniLM, is not copied: it comes from its own package.
"""

import argparse
import json
from pathlib import Path

from ship_weights import bundled

from crispmask.atomic import write_atomic
from crispmask.data.source import open_split
from crispmask.models.checkpoint import WEIGHTS
from crispmask.models.text_segmenter import TextSegmenter
from crispmask.train.batches import store
from crispmask.train.queries import words_of
from crispmask.train.text_scores import ValidationSet, text_scores

MOST = 25_000_000
"""Bytes of all files together."""

USE = """
## What it is for

Land cover from above at the scale of NASA's Blue Marble, 7.4 km a pixel, by the ten names above.
Other words of the same things work in part (rows "synonyms"), other words and other pictures
hardly: it has seen nothing else. VAE and U-Net were trained on 374 tiles alone. Presence ranks
these names well, and mostly refuses words that no tile shows, also those that it never met in
training (row "absent words"). The masks it draws add nothing here to its comparison of pixels and
words ("no masks drawn"). MiniLM, which reads the words, comes from its own package.
"""

COLUMNS = {"miou_truth": "mIoU", "miou_seen": "of seen words", "miou_unseen": "of unseen words"}


def scores(path: Path) -> str:
    """The rows of a record of `benchmarks/words.py` as a table, in percent."""
    record = json.loads(path.read_text(encoding="utf-8"))
    head = [*COLUMNS.values(), "presence AP", "absent area"]
    run = record["run"]
    lines = ["## Scores", ""]
    lines += [f"On the Earth test blocks, `{run['command']}` at {run['commit']}:", ""]
    lines += ["| | " + " | ".join(head) + " |", "|---" + "|---:" * len(head) + "|"]
    for name, row in record["rows"].items():
        values = [row["scores"][key] for key in COLUMNS]
        values += [(row["presence"] or {}).get("ap"), row["absent_area"]]
        cells = ["" if value is None else f"{100 * value:.1f}" for value in values]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--scores", type=Path, required=True)
    args = parser.parse_args()
    folder = WEIGHTS / "text-earth"
    model = TextSegmenter.from_pretrained(args.run)
    held_out = open_split("earth", "val")
    words = words_of("earth", held_out.class_names)
    seen = ValidationSet(name="earth", vocabulary=words, items=store(held_out))
    print(text_scores(model, [seen]))
    model.save_pretrained(folder, half=True)
    card = bundled((args.run / "README.md").read_text(encoding="utf-8"))
    write_atomic(folder / "README.md", f"{card}{USE}\n{scores(args.scores)}")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{size / 1e6:.2f} MB in {folder}")
    if size > MOST:
        raise SystemExit(f"more than the {MOST / 1e6:.0f} MB that the package may take.")


if __name__ == "__main__":
    main()
