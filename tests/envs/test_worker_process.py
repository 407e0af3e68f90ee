from __future__ import annotations

import pytest
from metatuner.envs.worker_process import Crew


class Doubler:
    """Doubles numbers, but no negative ones."""

    def double(self, number: int) -> int:
        if number < 0:
            raise ValueError(number)
        return 2 * number


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_answers_are_in_the_order_of_what_was_asked(workers: int) -> None:
    with Crew(Doubler(), workers) as crew:
        assert crew.call("double", range(5)) == [0, 2, 4, 6, 8]
        assert crew.call("double", [3]) == [6]
        assert crew.call("double", []) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_what_goes_wrong_there_is_raised_here(workers: int) -> None:
    with Crew(Doubler(), workers) as crew, pytest.raises(ValueError, match="-1"):
        crew.call("double", [1, -1])
