"""Draws docs/images/evidence/probe_DATA.svg from what first_light.py measured.

python benchmarks/probe.py
"""

import json
from pathlib import Path

from crispmask.report import svg
from crispmask.report.plots import state_chart
from crispmask.report.results import StateUse
from earth_models import RESULTS

PICTURES = Path(__file__).parents[1] / "docs" / "images" / "evidence"
REPORTS = {"earth": "first_light_earth_test", "camvid": "first_light_camvid_val"}


def main() -> None:
    for data, folder in REPORTS.items():
        report = json.loads((RESULTS / folder / "report.json").read_text(encoding="utf-8"))
        found = report["state_use"]
        use = StateUse(
            times=tuple(found["times"]),
            truth=tuple(found["truth"]),
            base=tuple(found["base"]),
            noise=tuple(found["noise"]),
            base_alone=found["base_alone"],
            images=found["images"],
        )
        path = PICTURES / f"probe_{data}.svg"
        path.write_text(svg.standalone(state_chart(use)), encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
