"""`metatuner`, and `python -m metatuner`."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Sequence

from .cli.console import json_alone
from .cli.parser import build_parser

BAD_INPUT, INTERRUPTED = 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        argv: The arguments; None takes the process's own.

    Returns:
        The exit code: 0 for success, 2 with one line for bad input or a file that cannot be used, 130 after Ctrl-C.
    """
    parser = build_parser()
    if not (sys.argv[1:] if argv is None else argv):
        # Whoever types the name alone wants to know what there is.
        parser.print_help(sys.stderr)
        parser.exit(BAD_INPUT, "metatuner: error: expected a VERB, one of those above\n")
    args = parser.parse_args(argv)
    try:
        with json_alone() if getattr(args, "json", False) else contextlib.nullcontext():
            code: int = args.run(args)
    except KeyboardInterrupt:
        print("metatuner: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader went away (`| head`): nobody is left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.filename is None and error.errno == errno.ENOSPC:
            # It is the output that has no room: what is left of it goes nowhere.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return _refused("there is no room left where the output goes: send it somewhere else")
        if error.filename is None:
            raise
        return _refused(
            f"{error.filename} cannot be used ({error.strerror}): expected a place where files can be read and "
            "written, work in another folder or name another file"
        )
    except Exception as error:
        from .envs.errors import MetatunerError

        if not isinstance(error, MetatunerError):
            raise
        return _refused(str(error))
    return code


def _refused(why: str) -> int:
    print(f"metatuner: error: {' '.join(why.split())}", file=sys.stderr)
    return BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())
