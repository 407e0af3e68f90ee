"""The command that does something again, for whoever reads its record."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping, Sequence


def command_line(verb: str, args: argparse.Namespace, places: Sequence[str], options: Mapping[str, str]) -> str:
    """A verb with all that its result follows from, whether it was given or is the default.

    Where a store is, and how the result is shown, is not among it: an address may hold a password.

    Args:
        verb: The verb.
        args: What was parsed.
        places: Attributes of `args` that have no option, in their order.
        options: Of the others, the attribute by its option. A list is given one by one, a flag where it is set.
    """
    words = ["metatuner", verb, *(str(getattr(args, each)) for each in places)]
    for option, attribute in options.items():
        value = getattr(args, attribute)
        if value is True:
            words.append(option)
        elif value is not None and value is not False:
            for each in value if isinstance(value, list) else [value]:
                words += [option, str(each)]
    return shlex.join(words)
