"""``recbole-genrec demo``: a local page with the lists of several models side by side."""

from __future__ import annotations

import argparse

from recbole_genrec.commands.arguments import add_data_path
from recbole_genrec.errors import UserError
from recbole_genrec.running.runtime import quiet

_EXAMPLES = """examples:
  %(prog)s --run RUN_A --run RUN_B
  %(prog)s --run results/runs/RUN_A --run results/runs/RUN_B --port 8000

The page is served to this machine only (127.0.0.1), until Ctrl-C.
Exit code: 0 stopped, 2 a mistake in the call (one line says which).
"""


def add(commands) -> None:
    """Add ``demo`` to the command line."""
    demo = commands.add_parser(
        "demo", help="a local web page: a history, and the lists of two models side by side", allow_abbrev=False,
        description="A local web page: a history, and what several models recommend after it, side by side.",
        epilog=_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    demo.add_argument("--run", required=True, action="append", metavar="RUN_DIR",
                      help="folder or id of a finished run; once for each model")
    demo.add_argument("--port", type=int, default=7860, help="0: any free one (default 7860)")
    add_data_path(demo)
    demo.set_defaults(handler=_demo)


def _demo(arguments: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C.

    Raises:
        UserError: a mistake in the call.
    """
    if not 0 <= arguments.port <= 65535:
        raise UserError(f"--port={arguments.port} must be from 0 to 65535")
    quiet()
    from recbole_genrec.demo.server import make_server
    from recbole_genrec.recommend import load

    server = make_server([load(run, arguments.data_path) for run in arguments.run], arguments.port)
    print(f"http://127.0.0.1:{server.server_port}/  (Ctrl-C stops it)", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print()
    finally:
        server.server_close()
    return 0
