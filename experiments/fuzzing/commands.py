"""The command line, and addresses of stores."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path

from fuzzed import SPACE, Fuzzed, reader
from hypothesis import strategies as st
from metatuner.__main__ import main
from metatuner.agent.policy_prior import export_policy
from metatuner.envs.errors import MetatunerError
from metatuner.tracking import optuna_study
from metatuner.tracking.redaction import has_credentials, one_line, without_credentials, without_userinfo
from metatuner.tracking.store import Kind, resolve
from mutations import TEXTS, json_files, tables
from past_trials import TABLE


@reader("command line")
def _(folder: Path) -> Iterator[Fuzzed]:
    os.chdir(folder)
    export_policy("search-default", "policy")
    Path("space.py").write_text(f"from optuna.distributions import *\nspace = {SPACE!r}\n")

    def read(given: tuple[list[str], bytes, bytes]) -> None:
        arguments, table, card = given
        Path("past.csv").write_bytes(table)
        Path("policy/card.json").write_bytes(card)
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            try:
                code = main(arguments)
            except SystemExit as ended:  # argparse
                code = ended.code
        assert code in (0, 1, 2)
        if code == 2:
            raise MetatunerError(said.getvalue())

    text = st.sampled_from([each for each in TEXTS if "\x00" not in each]) | st.text(
        st.characters(exclude_characters="\x00"), max_size=6
    )
    verbs = st.sampled_from(
        [
            ["prior", "show", "table:past.csv"],
            ["prior", "show", "table:past.csv", "space.py:space"],
            ["prior", "show", "table:past.csv", "--json"],
            ["policies", "show", "policy"],
            ["policies", "export", "policy", "out"],
            ["report"],
            ["report", "--output"],
            ["prior", "show"],
            ["policies", "show"],
            ["policies", "export"],
            ["doctor", "--study"],
            ["doctor", "--storage", "past.csv", "--study"],
            ["sync"],
            ["tune"],
            ["compare"],
            ["transfer", "--prior"],
            ["prior", "export"],
            ["learn"],
            ["--version"],
        ]
    )
    arguments = st.builds(lambda verb, more: [*verb, *more], verbs, st.lists(text, max_size=2))
    yield Fuzzed(st.tuples(arguments, tables(TABLE), json_files(Path("policy/card.json").read_bytes())), read)


@reader("address of a store")
def _(folder: Path) -> Iterator[Fuzzed]:
    def read(uri: str) -> None:
        assert not has_credentials(without_credentials(uri))
        one_line(ValueError(uri), hide=uri)
        with contextlib.suppress(MetatunerError):
            store = resolve(uri)
            assert "p4ssw0rd" not in store.shown
            if store.kind is Kind.SERVER:
                without_userinfo(store.uri)
        try:
            optuna_study.load(uri, "x")
        except MetatunerError as error:
            assert "p4ssw0rd" not in str(error)
            raise

    schemes = st.sampled_from(["http://", "https://", "postgresql://", "mysql+x://", "HTTP://", "://"])
    people = st.sampled_from(["", "u:p4ssw0rd@", "p4ssw0rd@", "u:p4ssw0rd@@", ":p4ssw0rd@", "a@b:p4ssw0rd@"])
    hosts = st.sampled_from(["", "[", "[::1]", "host", "host:x", "host:99999", "ü"])
    rest = st.sampled_from([*TEXTS, "?password=p4ssw0rd", "?a=1&token=p4ssw0rd#x", "/a?x=p:/b@c"]) | st.text(max_size=6)
    whole = st.builds(lambda *parts: "".join(parts), schemes, people, hosts, rest)
    yield Fuzzed(
        whole
        | st.builds(str.__add__, st.sampled_from(["sqlite:", "sqlite:///", "file:", "databricks", "", "//"]), rest),
        read,
    )
