from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from metatuner.tracking.names import LONGEST_NAME, clean_name, original_name, shorten
from mlflow.utils.validation import _validate_metric_name, _validate_param_name

ANY = st.text(st.characters(), max_size=40)
TRICKY = st.text(st.sampled_from("_x25/. -:%aé\n"), max_size=20)


@given(ANY | TRICKY)
def test_every_name_becomes_one_that_mlflow_takes(name: str) -> None:
    key = clean_name(name)
    _validate_metric_name(key)
    _validate_param_name(key)
    assert len(key) <= LONGEST_NAME


@given(ANY | TRICKY)
def test_the_original_is_found_back(name: str) -> None:
    key = clean_name(name)
    if len(key) < LONGEST_NAME:
        assert original_name(key) == name


@given(TRICKY, TRICKY)
def test_two_names_never_become_one(one: str, other: str) -> None:
    assert (clean_name(one) == clean_name(other)) == (one == other)


@pytest.mark.parametrize("name", ["hp/lr", "val/loss", "resource/peak_rss_mb", "max_x", "a b", "β1", "a.b-c:d", "_x"])
def test_valid_names_stay(name: str) -> None:
    assert clean_name(name) == name


@pytest.mark.parametrize(
    ("name", "key"),
    [("acc%", "acc_x25_"), ("", "_x_"), ("/a", "_x_/a"), ("a//b", "a/_x_/b"), ("../a", "_x2e_./a"), ("a\n", "a_xa_")],
)
def test_invalid_names_show_what_they_were(name: str, key: str) -> None:
    assert clean_name(name) == key


def test_long_names_that_differ_at_the_end_stay_different() -> None:
    assert clean_name("a" * 500 + "1") != clean_name("a" * 500 + "2")


def test_a_short_value_is_not_cut() -> None:
    assert shorten("value", 5) == "value"


def test_a_cut_value_fits_and_says_where_all_of_it_is() -> None:
    cut = shorten("v" * 7000, 6000, "artifact params/a.txt")
    assert len(cut) == 6000
    assert cut.endswith("(cut from 7000 characters; all of it: artifact params/a.txt)")
