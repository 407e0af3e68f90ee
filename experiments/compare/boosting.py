"""What is tuned: boosted trees on scikit-learn's breast cancer data, by the log loss of three-fold cross-validation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna.distributions import FloatDistribution, IntDistribution
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.model_selection import StratifiedKFold, cross_val_score

space = {
    "learning_rate": FloatDistribution(0.003, 1.0, log=True),
    "n_estimators": IntDistribution(10, 80, log=True),
    "max_depth": IntDistribution(1, 6),
    "min_samples_leaf": IntDistribution(1, 64, log=True),
    "subsample": FloatDistribution(0.2, 1.0),
    "max_features": FloatDistribution(0.05, 0.5),
}
_DATA = load_breast_cancer(return_X_y=True)
_FOLDS = StratifiedKFold(3, shuffle=True, random_state=0)


def train(config: Mapping[str, Any]) -> float:
    """The mean log loss on the folds that were left out."""
    model = GradientBoostingClassifier(**config, random_state=0)
    return float(-cross_val_score(model, *_DATA, cv=_FOLDS, scoring="neg_log_loss").mean())
