"""Runs a program again and again, each time in a process of its own that has imported already what it needs.

Importing torch and a framework takes far longer than what the programs of these tests do with them. So this imports
them once, by loading the program without running it, and forks for every run; a run has no other past, and can be
killed.

python forker.py PROGRAM

Standard input takes a request a line, standard output answers with a line, both in JSON: [ARGUMENTS, FILE FOR OUTPUT]
starts a run, the answer is its process; a number asks for the exit code of that process, null while it runs.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import sys
import traceback
import warnings


def run(program: str, arguments: list[str], output: str) -> int:
    """In the process of a run: its exit code."""
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.argv = [program, *arguments]
    try:
        runpy.run_path(program, run_name="__main__")
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
    return 0


def start(program: str, arguments: list[str], output: str) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer Pythons warn where there are threads; those here have done nothing yet
        if process := os.fork():
            return process
    os._exit(run(program, arguments, output))


def exit_code(process: int) -> int | None:
    ended, status = os.waitpid(process, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


if __name__ == "__main__":
    runpy.run_path(sys.argv[1], run_name="loaded")
    importlib.import_module("torch._dynamo")  # torch does, as soon as an optimiser is made
    for line in sys.stdin:
        request = json.loads(line)
        answer = exit_code(request) if isinstance(request, int) else start(sys.argv[1], *request)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
