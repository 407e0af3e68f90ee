"""What is kept of a training to return to, whatever its optimiser keeps."""

from __future__ import annotations

import copy

import torch
from metatuner.agent.rollback import Rollback
from torch import nn


def test_lists_that_an_optimiser_changes_in_place_are_kept_as_they_were() -> None:
    torch.manual_seed(0)
    model, x = nn.Linear(4, 1), torch.randn(32, 4)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=2, history_size=3)

    def steps(count: int, scale: float) -> None:
        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = scale * (model(x) - x.sum(1, keepdim=True)).pow(2).mean()
            loss.backward()
            return loss

        for _ in range(count):
            optimizer.step(closure)  # type: ignore[no-untyped-call]

    steps(3, 1.0)
    rollback = Rollback(optimizer, model)
    rollback.keep()
    before = copy.deepcopy(optimizer.state_dict()["state"])
    for _ in range(2):
        steps(3, 1e4)
        rollback.restore()
        after = optimizer.state_dict()["state"]
        assert len(after[0]["old_dirs"]) == len(before[0]["old_dirs"])
        for name in ("old_dirs", "old_stps", "ro"):
            for mine, kept in zip(after[0][name], before[0][name], strict=True):
                torch.testing.assert_close(torch.as_tensor(mine), torch.as_tensor(kept), rtol=0, atol=0)
