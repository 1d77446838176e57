"""From sections to one HTML file: Jinja2 with autoescape, plotly.js inlined, scripts by hash.

Model text reaches the page on two ways only: as autoescaped HTML, and inside a JSON data block.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from aloe.report.figure import Figure

_TEMPLATES = Path(__file__).parent / "templates"
_JSON_ESCAPES = {ord("<"): "\\u003c", ord(">"): "\\u003e", ord("&"): "\\u0026"}


def render(figures: Sequence[Figure], **sections: Any) -> str:
    """The whole page. ``sections`` are the template's names, see ``templates/index.html.jinja``."""
    # A file has no server to draw nonces, so scripts are allowed by the hash of their text.
    scripts = [_plotly(), (_TEMPLATES / "charts.js").read_text(encoding="utf-8")]
    policy = "; ".join(
        [
            "default-src 'none'",
            f"script-src {' '.join(script_hash(script) for script in scripts)}",
            "style-src 'unsafe-inline'",  # plotly writes style rules and attributes
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    template = _environment().get_template("index.html.jinja")
    return template.render(
        figures=figures,
        figure_data=embed_json([asdict(figure) for figure in figures]),
        policy=Markup(policy),  # noqa: S704  (made of constants and hashes)
        scripts=[Markup(script) for script in scripts],  # noqa: S704
        style=Markup((_TEMPLATES / "style.css").read_text(encoding="utf-8")),  # noqa: S704
        **sections,
    )


def embed_json(value: Any) -> Markup:
    """JSON that is safe inside ``<script type="application/json">``.

    No ``<``, ``>`` or ``&`` is left, so that neither ``</script>`` nor ``<!--`` can end or change
    the block, and no character outside ASCII (U+2028).

    Raises:
        ValueError: a number is not finite.
    """
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return Markup(text.translate(_JSON_ESCAPES))  # noqa: S704


def script_hash(text: str) -> str:
    """The CSP source expression that allows exactly this inline script."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    # HTML parsers read CRLF as LF; the hash is over what they read.
    return str(get_plotlyjs()).replace("\r\n", "\n")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "signed": signed,
        "quantity": quantity,
        "duration": duration,
        "date": _date,
    }
    return environment


def number(value: Any, digits: int = 2) -> str:
    """A number as it stands in a table; a list as an interval; None and NaN as "undefined"."""
    match value:
        case None:
            return "undefined"
        case bool() | str():
            return str(value)
        case int():
            return f"{value:,}".replace("-", "−")
        case float() if math.isfinite(value):
            small = 0 < abs(value) < 10**-digits
            return (f"{value:.2g}" if small else f"{value:,.{digits}f}").replace("-", "−")
        case float():
            return "undefined"
        case [*items]:
            return f"[{', '.join(number(item, digits) for item in items)}]"
    raise TypeError(f"no table shows a {type(value).__name__}")


def signed(value: float | None, digits: int = 2) -> str:
    """A difference with its sign."""
    text = number(value, digits)
    return text if value is None or value <= 0 else f"+{text}"


def quantity(value: float) -> str:
    """A count in three or four characters: 950, 12.3k, 4.56M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.0f}"


def duration(seconds: float) -> str:
    """Seconds as a person says them: 4.2 s, 3 min 05 s, 2 h 10 min."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _date(iso: str) -> str:
    return f"{datetime.fromisoformat(iso):%Y-%m-%d %H:%M %Z}".strip()
