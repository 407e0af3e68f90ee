"""Readers of policies: files, folders, addresses, past trials that come with one, the Model Registry."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuzzed import SPACE, Fuzzed, reader
from hypothesis import strategies as st
from metatuner.agent.adaptive_schedule import AdaptiveSchedule
from metatuner.agent.policy import Policy
from metatuner.agent.policy_files import read_card
from metatuner.agent.policy_prior import attach_prior, export_policy, prior_with
from metatuner.agent.search_policy import SearchPolicy
from metatuner.envs.conditional_space import ConditionalSpace
from metatuner.envs.controller import observation_size
from metatuner.envs.errors import MetatunerError
from metatuner.envs.search_moves import CONTEXT, FEATURES, MOVES, Moves
from metatuner.tracking.policy_page import describe_policy
from metatuner.tracking.registry import push
from metatuner.tracking.table_export import write_table
from metatuner.tracking.told_trials import ToldTrial
from mutations import TEXTS, altered, as_json, json_files, tables, tensor_files
from past_trials import TABLE, use_prior
from stores import empty_store

CARD, WEIGHTS = "card.json", "policy.safetensors"


def _use_schedule_policy(policy: Policy) -> None:
    seen = np.zeros((1, observation_size(2)), np.float32)
    decided, _ = policy.decide(seen)
    assert np.isfinite(decided).all()
    assert policy.card_json()
    describe_policy(policy.card, "x")
    weight = torch.nn.Parameter(torch.ones(2))
    schedule = AdaptiveSchedule(torch.optim.SGD([weight], lr=0.1, momentum=0.9), 3, policy, ("lr", "momentum"))
    for _ in range(3):
        loss = weight.square().sum() + 1.0
        weight.grad = 2 * weight.detach()
        schedule._optimizer.step()
        schedule.step(loss)
    schedule.close()
    assert all(np.isfinite(value) for value in schedule.values.values())


def use_search_policy(policy: SearchPolicy) -> None:
    """Lets it choose."""
    features, context = np.ones((MOVES, len(FEATURES)), np.float32), np.ones(len(CONTEXT), np.float32)
    moves = Moves(features, context, np.zeros((MOVES, 1)), np.full(MOVES, -1), None, np.zeros((MOVES, 2)))
    assert np.isfinite(policy.scores(moves)).all()
    describe_policy(policy.card, "x")


def _signed(folder: Path, weights: bytes) -> None:
    """Puts weights into a policy's folder as whoever forges them would: the card tells their hash."""
    (folder / WEIGHTS).write_bytes(weights)
    card = json.loads((folder / CARD).read_bytes())
    (folder / CARD).write_text(json.dumps({**card, "sha256": hashlib.sha256(weights).hexdigest()}))


def _policy(folder: Path, source: str, load: Callable[[Path], Any], use: Callable[[Any], None], file: str) -> Fuzzed:
    export_policy(source, folder / "policy")
    whole = (folder / "policy" / file).read_bytes()

    def read(data: bytes) -> None:
        if file == WEIGHTS:
            _signed(folder / "policy", data)
        else:
            (folder / "policy" / file).write_bytes(data)
        with contextlib.suppress(MetatunerError):
            read_card(folder / "policy")
        use(load(folder / "policy"))

    return Fuzzed((tensor_files if file == WEIGHTS else json_files)(whole), read)


@reader("schedule policy: card")
def _(folder: Path) -> Iterator[Fuzzed]:
    yield _policy(folder, "schedule-default", Policy.load, _use_schedule_policy, CARD)


@reader("schedule policy: weights")
def _(folder: Path) -> Iterator[Fuzzed]:
    yield _policy(folder, "schedule-default", Policy.load, _use_schedule_policy, WEIGHTS)


@reader("search policy: card")
def _(folder: Path) -> Iterator[Fuzzed]:
    yield _policy(folder, "search-default", SearchPolicy.load, use_search_policy, CARD)


@reader("search policy: weights")
def _(folder: Path) -> Iterator[Fuzzed]:
    yield _policy(folder, "search-default", SearchPolicy.load, use_search_policy, WEIGHTS)


_LINKS = (
    "/dev/zero",
    "/dev/full",
    "/proc/self/mem",
    "/nowhere",
    "card.json",
    "policy.safetensors",
    "prior.csv",
    "..",
    "/",
)


@reader("policy: folder and address")
def _(folder: Path) -> Iterator[Fuzzed]:
    """Files exchanged for folders, pipes and links; names of policies that are none."""
    os.chdir(folder)

    def read(given: tuple[str, list[tuple[str, str]]]) -> None:
        address, changes = given
        shutil.rmtree("policy", ignore_errors=True)
        export_policy("search-default", "policy")
        Path("policy/prior.csv").write_text(TABLE)
        for file, instead in changes:
            path = Path("policy") / file
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            path.unlink(missing_ok=True)
            if instead == "folder":
                path.mkdir()
            elif instead == "pipe":
                os.mkfifo(path)
            elif instead != "nothing":
                path.symlink_to(instead)
        for load in (Policy.load, SearchPolicy.load, read_card, functools.partial(export_policy, folder="exported")):
            with contextlib.suppress(MetatunerError):
                load(address)
        with contextlib.suppress(MetatunerError):
            attach_prior("policy", "minimize", lambda path: write_table(path, [ToldTrial("t", {"lr": "1"}, 1.0)]))
        prior_with(address, ConditionalSpace(SPACE), own=None, units=2)

    addresses = st.sampled_from(
        ["policy", "policy/card.json", "./policy/", "policy/../policy", "models:/", "models:/x@y", "zero", ":"]
    )
    texts = st.sampled_from([text for text in TEXTS if text not in ("..", ".", "a\nb")]) | st.text(max_size=8)
    files = st.tuples(
        st.sampled_from([CARD, WEIGHTS, "prior.csv"]), st.sampled_from(["folder", "pipe", "nothing", *_LINKS])
    )
    yield Fuzzed(st.tuples(addresses | addresses | texts, st.lists(files, max_size=2)), read)


@reader("policy: past trials with it")
def _(folder: Path) -> Iterator[Fuzzed]:
    export_policy("search-default", folder / "policy")

    def read(given: tuple[bytes, Any]) -> None:
        table, entry = given
        (folder / "policy" / "prior.csv").write_bytes(table)
        card = json.loads((folder / "policy" / CARD).read_bytes())
        told = {"sha256": hashlib.sha256(table).hexdigest(), "direction": "minimize"} if entry is None else entry
        (folder / "policy" / CARD).write_bytes(as_json({**card, "prior": told}))
        prior = prior_with(folder / "policy", ConditionalSpace(SPACE), own=("wine", "e"), units=2)
        if prior is not None:
            use_prior(prior)

    entries = st.none() | st.none() | st.none() | altered({"sha256": "0" * 64, "direction": "minimize"}, raw=False)
    yield Fuzzed(st.tuples(tables(TABLE), entries), read)


@reader("policy: Model Registry")
def _(folder: Path) -> Iterator[Fuzzed]:
    with empty_store(folder) as uri:
        push(export_policy("search-default", folder / "policy"), "x", tracking_uri=uri, alias="champion")
        (card,) = (folder / "mlartifacts").rglob(CARD)
        before = os.environ.get("MLFLOW_TRACKING_URI")
        os.environ["MLFLOW_TRACKING_URI"] = uri

        def read(data: bytes) -> None:
            card.write_bytes(data)
            use_search_policy(SearchPolicy.load("models:/x@champion"))

        try:
            yield Fuzzed(json_files(card.read_bytes()), read)
        finally:
            os.environ.pop("MLFLOW_TRACKING_URI")
            if before is not None:
                os.environ["MLFLOW_TRACKING_URI"] = before
