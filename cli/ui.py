"""Open MLflow's page on the recorded studies.

The server listens on this machine alone unless --host says otherwise. Ctrl-C ends it.
"""

from __future__ import annotations

import argparse

from .console import add_store_arguments, say

EXAMPLE = "metatuner ui --port 5001"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this verb."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=5000, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    add_store_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the verb."""
    from ..tracking.ui import serve

    serve(
        args.tracking_uri,
        host=args.host,
        port=args.port,
        open_browser=args.open,
        announce=lambda url: say(f"MLflow's page: {url}  (Ctrl-C ends it)"),
    )
    return 0
