"""Pages of ssgear: a template and values -> one file that asks the network for nothing.

Every value is escaped. `base.css` has what the pages share: colours by day and by night, and type.
"""

from __future__ import annotations

import base64
import hashlib
import json

from jinja2 import Environment, PackageLoader, StrictUndefined

from ssgear.report.charts import number_text
from ssgear.report.images import picture
from ssgear.report.pictures import percent


def render(template: str, **values: object) -> str:
    """Fill a template of this folder."""
    environment = Environment(
        loader=PackageLoader("ssgear.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent, "json": _json, "fingerprint": _fingerprint,
        "picture": picture, "number": number_text,
    }  # fmt: skip
    return environment.get_template(template).render(values)


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _fingerprint(script: str) -> str:
    """Hash of the page's own script for its content security policy: no other script may run."""
    return base64.b64encode(hashlib.sha256(str(script).encode()).digest()).decode("ascii")
