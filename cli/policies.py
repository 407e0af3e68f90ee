"""Policies: those in the package, and those in MLflow's Model Registry.

list shows both; show prints a card; push registers a folder as a new version; pull downloads one; promote makes a
version the champion, which `models:/NAME@champion` then names; export writes any of them into a plain folder, with past
trials where they are asked for, and `metatuner tune --strategy policy:FOLDER` searches with both.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path

from .actions import Action, add_actions, run_action
from .console import say, say_json, table
from .shared_table import add_table_options, say_withheld, table_options

EXAMPLE = "metatuner policies push my-policy --name digits --alias champion"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this verb."""
    add_actions(parser, _ACTIONS)


def run(args: argparse.Namespace) -> int:
    """Runs the verb."""
    return run_action(args)


def _list(args: argparse.Namespace) -> int:
    from ..agent.policy_files import read_card, shipped_policies
    from ..tracking.registry import versions
    from ..tracking.store import resolve

    shipped = [read_card(name) for name in shipped_policies()]
    store = resolve(args.tracking_uri)
    # A store that is not there yet holds no policies; looking must not make one.
    registered = [] if store.is_missing else versions(args.tracking_uri)
    if args.json:
        cards = [{"name": card["name"], "sha256": card["sha256"]} for card in shipped]
        say_json({"shipped": cards, "registered": [asdict(each) for each in registered]})
        return 0
    rows = [[card["name"], "in the package", "", card["sha256"][:12]] for card in shipped]
    rows += [[each.name, each.uri, ", ".join(each.aliases), each.tags.get("sha256", "")[:12]] for each in registered]
    say(table(["policy", "where", "alias", "sha256"], rows))
    return 0


def _show(args: argparse.Namespace) -> int:
    from ..agent.policy import ZERO, Policy
    from ..agent.policy_files import read_card, shipped_policies
    from ..envs.errors import UnknownPolicyError
    from ..tracking.registry import versions
    from ..tracking.store import resolve

    try:
        store = resolve(args.tracking_uri)
        # Looking does not make a store.
        asked = not store.is_missing and args.policy not in shipped_policies()
        registered = versions(args.tracking_uri, args.policy) if asked else []
    except UnknownPolicyError:
        registered = []  # then it is a folder or a models:/ address, or nothing at all, which load says
    if registered:
        if args.json:
            say_json([asdict(each) for each in registered])
        else:
            rows = [
                [
                    str(each.version),
                    ", ".join(each.aliases),
                    each.tags.get("sha256", "")[:12],
                    each.tags.get("learnt_from", ""),
                ]
                for each in registered
            ]
            say(table(["version", "alias", "sha256", "learnt from"], rows))
        return 0
    card = Policy.load(ZERO).card if args.policy == ZERO else read_card(args.policy, args.tracking_uri)
    say(json.dumps(card, indent=2))
    return 0


def _push(args: argparse.Namespace) -> int:
    from ..agent.policy_files import read_card
    from ..tracking.registry import push

    card = read_card(args.folder)  # refuses what is damaged or foreign before it is registered
    runs = [run for run in args.learnt_from.split(",") if run]
    pushed = push(
        args.folder, args.name or card["name"], tracking_uri=args.tracking_uri, alias=args.alias, learnt_from=runs
    )
    if args.json:
        say_json(asdict(pushed))
    else:
        say(f"registered as {pushed.uri}" + (f", alias {args.alias}" if args.alias else ""))
    return 0


def _pull(args: argparse.Namespace) -> int:
    from ..agent.policy_files import read_card
    from ..tracking.registry import pull

    folder = pull(args.policy, args.folder, tracking_uri=args.tracking_uri)
    card = read_card(folder)
    if args.json:
        say_json({"folder": str(folder), "sha256": card["sha256"]})
    else:
        say(f"policy {card['name']!r} saved in {folder}, sha256 checked")
    return 0


def _export(args: argparse.Namespace) -> int:
    from ..agent.policy_files import read_card, shipped_policies
    from ..agent.policy_prior import PRIOR, attach_prior, export_policy, forget_names
    from ..envs.errors import ConfigurationError
    from ..tracking.prior_contents import told_trials
    from ..tracking.registry import pull
    from ..tracking.table_export import write_table

    if Path(args.policy).exists() and Path(args.policy).resolve() == Path(args.folder).resolve():
        raise ConfigurationError(f"expected another folder than the policy's own, got {args.folder!r}")
    # What is in the folder stays as it is until all of the new one is there.
    with tempfile.TemporaryDirectory(prefix="metatuner-") as temporary:
        made = Path(temporary) / "policy"
        if args.policy in shipped_policies() or Path(args.policy).exists():
            export_policy(args.policy, made)
        else:
            pull(args.policy, made, tracking_uri=args.tracking_uri)
        written = None
        if args.prior is not None:
            trials = told_trials(args.prior, metric=args.metric, tracking_uri=args.tracking_uri)
            direction = "maximize" if args.maximize else "minimize"
            written = attach_prior(made, direction, lambda path: write_table(path, trials, **table_options(args)))
        if args.anonymous:
            forget_names(made)
        folder = export_policy(made, args.folder)
    card = read_card(folder)
    if args.json:
        withheld = None if written is None else list(written.withheld)
        say_json({"folder": str(folder), "sha256": card["sha256"], "prior": card.get("prior"), "withheld": withheld})
        return 0
    say(f"policy {card['name']!r} saved in {folder}")
    if written is not None:
        say(f"with {written.trials:,} past trials of {written.tasks:,} tasks: {', '.join(written.names) or 'none'}")
        say_withheld(written)
        say(
            f"look through {folder / PRIOR} and card.json before you share them: values of hyperparameters are written "
            "as they are"
        )
    if card["kind"] == "search":
        say(f"use it: metatuner tune FILE.py:FUNCTION --strategy policy:{folder}")
    return 0


def _promote(args: argparse.Namespace) -> int:
    from ..tracking.registry import promote

    promote(args.name, args.version, alias=args.alias, tracking_uri=args.tracking_uri)
    if args.json:
        say_json({"name": args.name, "version": args.version, "alias": args.alias})
    else:
        say(f"models:/{args.name}@{args.alias} is version {args.version} now")
    return 0


def _add_show(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("policy", help="a shipped policy's name, a registered one's, models:/NAME@ALIAS, or a folder")


def _add_push(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="the policy's folder")
    parser.add_argument("--name", help="the registered name (default: the policy's own)")
    parser.add_argument("--alias", help="point this alias at it, for instance champion")
    parser.add_argument("--learnt-from", default="", metavar="RUN,RUN", help="ids of the runs that taught it")


def _add_pull(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("policy", help="models:/NAME@ALIAS, models:/NAME/VERSION, or NAME for its champion")
    parser.add_argument("folder", help="where it goes")


def _add_export(parser: argparse.ArgumentParser) -> None:
    _add_show(parser)
    parser.add_argument("folder", help="where it goes; a policy that is there is replaced")
    parser.add_argument(
        "--prior", metavar="ADDRESS", help="past trials to go with it: mlflow:EXPERIMENT or table:FILE.csv"
    )
    parser.add_argument(
        "--metric", default="objective", help="what runs of others were judged by (default: %(default)s)"
    )
    parser.add_argument("--maximize", action="store_true", help="the larger the better")
    add_table_options(parser)


def _add_promote(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="the registered name")
    parser.add_argument("version", type=int, help="the version's number")
    parser.add_argument("--alias", default="champion", help="default: %(default)s")


_ACTIONS = {
    "list": Action("List policies", "metatuner policies list", lambda parser: None, _list),
    "show": Action("Show a card, or versions", "metatuner policies show schedule-default", _add_show, _show),
    "push": Action("Register a folder as a new version", EXAMPLE, _add_push, _push),
    "pull": Action(
        "Download a registered policy", "metatuner policies pull models:/digits@champion p", _add_pull, _pull
    ),
    "export": Action(
        "Write a policy, and past trials with it, into a folder",
        "metatuner policies export search-default shared --prior mlflow:my-experiment --anonymous",
        _add_export,
        _export,
    ),
    "promote": Action("Make a version the champion", "metatuner policies promote digits 3", _add_promote, _promote),
}
