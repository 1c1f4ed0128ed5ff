"""``report/index.html``: one file with everything in it, which opens from disk without a network.

Its policy lets nothing load and nothing run but the one style sheet and the one script whose hashes it names, so text
from a broker or a user that got past the escaping would still be text. Assets: ``reports/`` of a checkout, or the copy
that the wheel carries as ``brokerproof/_reports``.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib.resources
import json
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from brokerproof.errors import HarnessError
from brokerproof.render import recovery, views
from brokerproof.render.folder import Run, read_run


def render(run: Path) -> Path:
    """Writes the page and returns its path."""
    out = run / "report" / "index.html"
    out.parent.mkdir(exist_ok=True)
    out.write_text(page(read_run(run)), encoding="utf-8", newline="\n")
    return out


def page(run: Run) -> str:
    """The whole page."""
    view = views.report(run)
    return templated(
        "report.html.j2", "scripts/report.js", report=view, data=script_json(view.filters),
        recovery_columns=[heading for heading, _, _ in recovery.COLUMNS],
    )  # fmt: skip


def templated(template: str, script: str, **values: Any) -> str:
    """A page of that template, with the style sheet and that script ("" none) in it, and a policy that names just these."""
    style, code = asset("styles/report.css"), asset(script) if script else ""
    scripts = f"script-src '{_sha256(code)}'; " if code else ""
    policy = (
        f"default-src 'none'; style-src '{_sha256(style)}'; {scripts}img-src data:; base-uri 'none'; form-action 'none'"
    )
    # Markup: both are this package's own files, and the hash is of exactly these characters.
    return filled(template, policy=policy, style=Markup(style), script=Markup(code), **values)


def filled(template: str, **values: Any) -> str:
    """The template with these values, every one of them escaped unless it is Markup."""
    return _environment().get_template(template).render(**values)


def script_json(value: Any) -> Markup:
    """value as JSON that can stand in a script element: nothing in it can end the element or open a comment."""
    raw = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return Markup(raw.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def asset(name: str) -> str:
    """The text of one file of the report's assets, with line ends as the HTML parser will see them."""
    try:
        return _assets().joinpath(*name.split("/")).read_text(encoding="utf-8").replace("\r\n", "\n")
    except OSError as exc:
        raise HarnessError(f"the report's asset {name!r} cannot be read: {exc}; is the installation complete?") from exc


def _assets() -> Traversable:
    """Where templates, style and script lie: inside the wheel, else beside ``harness/`` in a checkout."""
    packaged = importlib.resources.files("brokerproof") / "_reports"
    return packaged if packaged.is_dir() else Path(__file__).resolve().parents[3] / "reports"


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: asset(f"templates/{name}")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _sha256(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
