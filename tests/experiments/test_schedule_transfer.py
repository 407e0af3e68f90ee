"""The parts of the benchmark that a result stands or falls with: stacked optimisers and the arithmetic of scores."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from metatuner.envs.sampling import EpochSampler
from metatuner.envs.update_rules import BatchedOptimizer

FOLDER = Path(__file__).parents[2] / "experiments" / "schedule_transfer"


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    before = set(sys.modules)
    yield
    for name in {path.stem for path in FOLDER.glob("*.py")} & (set(sys.modules) - before):
        del sys.modules[name]


def task(name: str, rule: BatchedOptimizer, steps: int = 12) -> Any:
    import tasks

    (problem,) = [each for each in tasks.problems(None) if each.name == name]
    return tasks.Task(problem, rule, steps, seed=1)


def alone(of: Any, optimizer: Any, steps: int, *, settle: int = 0) -> float:
    """A plain PyTorch loop on one network; its final validation loss."""
    torch.manual_seed(of.seed)
    model = of.problem.model()
    built = optimizer(model.parameters())
    sampler = EpochSampler(len(of.split.train[0]), of.problem.batch_size, of.seed)
    if hasattr(built, "train"):
        built.train()
    for rows in sampler.next(steps):
        built.zero_grad()
        of.problem.loss(model(of.split.train[0][rows]), of.split.train[1][rows]).backward()
        built.step()
    if hasattr(built, "eval"):
        built.eval()
    with torch.no_grad():
        for rows in sampler.next(settle) if settle else []:
            model(of.split.train[0][rows])
        return float(of.problem.loss(model.eval()(of.split.val[0]), of.split.val[1]))


@pytest.mark.parametrize("name", ["cnn digits", "mlp diabetes", "gru digits by rows"])
def test_a_stacked_torch_optimizer_trains_as_the_batched_training_does(name: str) -> None:
    import stacked_optimizers

    of, rates = task(name, BatchedOptimizer.ADAM), np.array([1e-4, 1e-2])
    group = of.group(rates)
    first = group.training.start(group.start, group.seeds).val_loss
    batched = group.training.advance({}, of.steps).val_loss
    networks = stacked_optimizers.StackedNetworks(of, 2)
    np.testing.assert_allclose(networks.validate(), first, rtol=1e-5)
    groups = [{"params": [row], "lr": lr} for row, lr in zip(networks.rows, rates, strict=True)]
    networks.train(of.steps, [torch.optim.Adam(groups, weight_decay=1e-4)])
    np.testing.assert_allclose(networks.validate(), batched, rtol=1e-4)


def test_schedule_free_in_a_stack_trains_as_it_does_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    schedulefree = pytest.importorskip("schedulefree")
    import rivals

    of = task("cnn digits", BatchedOptimizer.ADAM, steps=40)
    monkeypatch.setattr(rivals, "STARTS", np.array([1e-3, 1e-2]))
    stacked = rivals.schedule_free(of)
    for lr, loss in zip((1e-3, 1e-2), stacked.val, strict=True):

        def optimizer(weights: Any, lr: float = lr) -> Any:
            return schedulefree.AdamWScheduleFree(weights, lr=lr, weight_decay=1e-2, warmup_steps=2)

        assert loss == pytest.approx(alone(of, optimizer, of.steps, settle=50), rel=1e-3)


def test_prodigy_on_one_vector_of_weights_is_prodigy_on_all_of_them() -> None:
    prodigyopt = pytest.importorskip("prodigyopt")
    import stacked_optimizers

    of = task("mlp diabetes", BatchedOptimizer.ADAM, steps=60)
    networks = stacked_optimizers.StackedNetworks(of, 1)
    networks.train(of.steps, [prodigyopt.Prodigy(networks.rows)])
    assert float(networks.validate()[0]) == pytest.approx(alone(of, prodigyopt.Prodigy, of.steps), rel=1e-3)


def test_hypergradient_descent_with_a_fixed_rate_is_the_optimizer_itself() -> None:
    import stacked_optimizers

    for rule in (BatchedOptimizer.SGD, BatchedOptimizer.ADAM, BatchedOptimizer.ADAMW):
        of = task("mlp diabetes", rule)
        group = of.group(np.array([1e-3]))
        group.training.start(group.start, group.seeds)
        networks = stacked_optimizers.StackedNetworks(of, 1)
        optimizer = stacked_optimizers.Hypergradient(
            [{"params": networks.rows}],
            lr=1e-3,
            weight_decay=float(group.start["weight_decay"][0]),
            adam=bool(rule.adaptive),
            decoupled=rule is BatchedOptimizer.ADAMW,
            hypergradient_lr=0.0,
        )
        networks.train(of.steps, [optimizer])
        expected = group.training.advance({}, of.steps).val_loss
        np.testing.assert_allclose(networks.validate(), expected, rtol=1e-5)


def test_hypergradient_descent_raises_a_rate_that_is_too_low() -> None:
    import stacked_optimizers

    networks = stacked_optimizers.StackedNetworks(task("mlp diabetes", BatchedOptimizer.SGD), 1)
    optimizer = stacked_optimizers.Hypergradient([{"params": networks.rows}], lr=1e-5)
    networks.train(50, [optimizer])
    assert optimizer.param_groups[0]["lr"] > 1e-4


def test_no_rows_are_shared_between_training_validation_and_test() -> None:
    of = task("mlp diabetes", BatchedOptimizer.SGD)
    parts = [of.split.train[0], of.split.val[0], of.split.test[0]]
    assert sum(map(len, parts)) == len(torch.unique(torch.cat(parts), dim=0)) == 442


def test_a_zero_policy_reaches_what_the_constant_rate_reaches(monkeypatch: pytest.MonkeyPatch) -> None:
    import rivals
    from metatuner.agent.policy import Policy

    of = task("cnn digits", BatchedOptimizer.SGD)
    starts = np.array([1e-4, 1e-2])
    monkeypatch.setattr(rivals, "STARTS", starts)
    adaptive, constant = rivals.policy(of, Policy.load("zero"), ("lr",), 3, guarded=False), rivals.constant(of)
    np.testing.assert_allclose(adaptive.val, constant.val, rtol=1e-5)
    np.testing.assert_allclose(adaptive.test, constant.test, rtol=1e-5)


def test_scores_of_made_up_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    import scoring

    monkeypatch.setattr(scoring, "_RESAMPLES", 400)
    rng = np.random.default_rng(0)
    results = {}
    for number in range(8):
        cosine = 1 + rng.random((3, 24))
        cosine[:, 10] = 1.0
        losses = {"cosine": cosine, "constant": np.full((3, 12), 3.0), "policy": np.full((3, 12), 1.5)}
        results[f"task {number}"] = scoring.TaskResult(f"problem {number // 2}", losses, losses)
    summary = scoring.summarise(results, ["policy", "constant", "best_of_24", "tuned_elsewhere"])
    assert summary["policy"]["iqm"] == summary["policy"]["iqm_95"][0] == pytest.approx(1.5)
    assert summary["best_of_24"]["iqm"] == summary["tuned_elsewhere"]["iqm"] == 1.0
    compared = scoring.compare(results, ["constant", "best_of_24"])
    assert (compared["constant"]["beaten"], compared["best_of_24"]["beaten"]) == (1.0, 0.0)
    assert compared["constant"]["p_holm"] == pytest.approx(2 * compared["constant"]["p"])
    assert scoring.guard(results, "constant")["worst_task_median"][1] == pytest.approx(0.5)
