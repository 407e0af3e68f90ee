"""The verbs and their options."""

from __future__ import annotations

import argparse

from .. import __version__
from . import compare, completion, demo, doctor, learn, policies, prior, report, sync, train, transfer, tune, ui, worker

_VERBS = {
    "demo": demo,
    "tune": tune,
    "worker": worker,
    "compare": compare,
    "report": report,
    "prior": prior,
    "train": train,
    "learn": learn,
    "transfer": transfer,
    "policies": policies,
    "ui": ui,
    "sync": sync,
    "doctor": doctor,
    "completion": completion,
}


def build_parser() -> argparse.ArgumentParser:
    """The parser of `metatuner`; the parsed arguments carry the verb's `run`."""
    parser = argparse.ArgumentParser(
        prog="metatuner",
        description="A reinforcement-learning meta-tuner for hyperparameters, backed by MLflow.",
        epilog="example: metatuner demo && metatuner ui",
    )
    parser.add_argument("--version", action="version", version=f"metatuner {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for name, verb in _VERBS.items():
        assert verb.__doc__ is not None
        summary, _, details = verb.__doc__.partition("\n\n")
        verb_parser = verbs.add_parser(
            name,
            help=summary.rstrip("."),
            description=f"{summary}\n\n{details}",
            epilog=f"example: {verb.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        verb.add_arguments(verb_parser)
        verb_parser.set_defaults(run=verb.run)
    return parser
