"""The JavaScript that draws the page's charts: Vega, Vega-Lite and Vega-Embed in one piece, for an offline page.

It comes out of vl-convert and takes two seconds to make, outside Python's lock: a command starts `javascript` in a
thread before it loads anything else.
"""

from __future__ import annotations

import threading
from functools import cache

_ONE_AT_A_TIME = threading.Lock()


def javascript() -> str:
    """Return the bundle, safe inside a <script> element; it defines `vegaEmbed`. Made once per process."""
    with _ONE_AT_A_TIME:
        return _made()


@cache
def _made() -> str:
    import vl_convert

    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").replace("</script", "<\\/script")
