"""Pages from the templates of this package."""

from collections.abc import Mapping
from importlib import resources
from typing import Any

import jinja2


def render(name: str, values: Mapping[str, Any]) -> str:
    """The template NAME.html.jinja filled with these values; all text in them is escaped."""
    source = resources.files("crispmask.report").joinpath(f"{name}.html.jinja")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(source.read_text(encoding="utf-8")).render(values)
