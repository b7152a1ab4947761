"""``/console``: one self-contained page for people, served only with the setting ``--console``.

The page is package data, its script and its style stand in it. The Content-Security-Policy allows these two
by their hashes and nothing else: no other script, no style, no form target, no frame around it, and requests
to this server alone. ``require-trusted-types-for`` has the browser refuse every way to turn text into markup,
so what an agent prints can only ever be shown.
"""

from __future__ import annotations

import base64
import hashlib
import re
from importlib import resources

from quart import Blueprint
from quart_trio.wrappers import TrioResponse

_INLINE = re.compile(rb"<(script|style)>(.*?)</\1>", re.DOTALL)


def console_page() -> bytes:
    """Return the page as it is served."""
    return resources.files("q9gent.http").joinpath("console.html").read_bytes()


def console_headers(page: bytes) -> dict[str, str]:
    """Return the headers that fence a page in, with the hashes of what stands in it."""
    hashes = {"script": "", "style": ""}
    for tag, text in _INLINE.findall(page):
        digest = base64.b64encode(hashlib.sha256(text).digest()).decode()
        hashes[tag.decode()] += f" 'sha256-{digest}'"
    policy = [
        "default-src 'none'",
        f"script-src{hashes['script']}",
        f"style-src{hashes['style']}",
        "img-src data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]
    return {
        "content-security-policy": "; ".join(policy),
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "cache-control": "no-cache",
    }


def console_blueprint() -> Blueprint:
    """Return the route; the page is read once."""
    blueprint = Blueprint("console", __name__)
    page = console_page()
    headers = console_headers(page)

    @blueprint.get("/console")
    async def console() -> TrioResponse:
        """Show the page."""
        return TrioResponse(page, content_type="text/html; charset=utf-8", headers=headers)

    return blueprint
