"""The numbers of a segmenter of words as a terminal and a page show them.

A row is what `WordsResult.to_dict` gives: plain values, None where a mean is over nothing.
"""

import statistics
from collections.abc import Mapping
from typing import Any

Row = Mapping[str, Any]

NAMES = "names"
"""The row of a data set's names, without synonyms."""

COLUMNS = {
    "mIoU": "mean IoU over the classes in the truth, the headline",
    "95 %": "interval of mIoU, from a bootstrap over blocks of images",
    "union": "mean IoU over the classes in the truth or in the answer",
    "seen": "mIoU over the classes whose names the model was trained on, letter by letter",
    "unseen": "mIoU over the other classes",
    "there AP": "average precision of telling which classes an image has",
    "absent": "mean share of an image that is given to classes which are not in it",
    "told": "mIoU of the model when it is told which classes each image has; nothing a user gets",
}
"""Columns and what they mean."""


def columns(rows: Mapping[str, Row]) -> list[str]:
    """Names of the columns; without "told" where that was not measured."""
    told = any(row["oracle_presence"] is not None for row in rows.values())
    return [name for name in COLUMNS if told or name != "told"]


def cells(row: Row) -> dict[str, str]:
    """All columns of a row, in percent; empty where there is nothing to tell."""
    scores, interval = row["scores"], row["interval"]
    presence, told = row["presence"] or {}, row["oracle_presence"] or {}
    values = {
        "mIoU": scores["miou_truth"],
        "union": scores["miou_union"],
        "seen": scores["miou_seen"],
        "unseen": scores["miou_unseen"],
        "there AP": presence.get("ap"),
        "absent": row["absent_area"],
        "told": told.get("miou_truth"),
    }
    texts = {name: percent(value) for name, value in values.items()}
    return texts | {"95 %": f"{percent(interval['low'])}-{percent(interval['high'])}"}


def further(row: Row) -> dict[str, str]:
    """Means over classes that are usual on the Earth from above and in medicine.

    Mean F1 is over the classes in the truth, the others over those in truth or answer; these are
    there for small sets of labels alone.
    """
    said = {"mean F1": percent(row["scores"]["mean_f1"])}
    if row["per_image"] is not None:
        for name in ("dice", "sensitivity", "hd95"):
            values = [value for value in row["per_image"][name] if value is not None]
            mean = statistics.fmean(values) if values else None
            if name == "hd95":
                said["HD95"] = "n/a" if mean is None else f"{mean:.1f} pixels"
            else:
                said[name] = percent(mean) or "n/a"
    return said


def percent(value: float | None) -> str:
    """With one digit; empty for None, a mean over no class."""
    return "" if value is None else f"{100 * value:.1f}"
