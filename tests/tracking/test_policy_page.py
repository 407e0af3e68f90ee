from __future__ import annotations

from metatuner.agent.policy import Policy
from metatuner.agent.search_policy import SearchPolicy
from metatuner.tracking.policy_page import describe_policy


def test_a_card_is_told_to_a_person() -> None:
    card = Policy.load("schedule-default").card
    text = describe_policy(card, "mine")
    assert f"Adjusts {', '.join(card['adjust'])} {card['decisions']} times a training." in text
    assert "AdaptiveSchedule(optimizer" in text
    assert 'policy="models:/mine@champion"' in text
    figure = card["evaluation"]["validation median_ratio_to_cosine"]
    assert f"| validation median ratio to cosine | {figure:.4g} |" in text
    assert f"Made by `{card['command']}`" in text


def test_a_search_policy_is_used_otherwise() -> None:
    text = describe_policy(SearchPolicy.load("search-default").card, "mine")
    assert 'PolicySampler(policy="models:/mine@champion")' in text


def test_what_a_card_lacks_or_has_wrong_is_left_out() -> None:
    assert describe_policy({}, "mine").startswith("```python")
    odd = describe_policy({"adjust": "lr", "evaluation": [1], "algorithm": 3}, "mine")
    assert odd.startswith("Learnt by: 3.") and "evaluation" not in odd


def test_a_long_card_is_cut_and_says_so() -> None:
    text = describe_policy({"evaluation": {f"figure {i}": "x" * 50 for i in range(1000)}}, "mine")
    assert len(text) < 5_000 and "cut from" in text
