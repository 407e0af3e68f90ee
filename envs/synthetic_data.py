"""Made-up data to meta-train on: nothing in it is real, so that every real data set stays unseen.

Data may be clear: on real data of thousands of rows losses often fall far, to a tenth or a hundredth within some
hundred steps, and what is learnt where they cannot is to be content with little. Other data are not: there it is that a
training must stop in time.

Each function draws one data set of `rows` examples: inputs and targets. Class numbers are exact here; wrong labels come
from `mislabelled`.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


class Draw:
    """Where everything random comes from: numpy for single numbers, torch for tensors, both from one seed.

    Args:
        rng: The numbers and the seed of the tensors follow from it.
        clear: Whether targets mostly follow from inputs, so that losses fall far.
    """

    def __init__(self, rng: np.random.Generator, *, clear: bool = False) -> None:
        self.rng, self.clear = rng, clear
        self.generator = torch.Generator().manual_seed(int(rng.integers(2**31)))

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers."""
        return torch.randn(*shape, generator=self.generator)

    def uniform(self, *shape: int) -> Tensor:
        """Numbers in [0, 1)."""
        return torch.rand(*shape, generator=self.generator)

    def log_uniform(self, low: float, high: float) -> float:
        """One number whose logarithm is uniform."""
        return math.exp(self.rng.uniform(math.log(low), math.log(high)))


def gaussian_mixture(rows: int, features: int, classes: int, draw: Draw) -> tuple[Tensor, Tensor]:
    """Clusters, one to four a class; some classes are rarer than others."""
    clusters = classes * int(draw.rng.integers(1, 5))
    apart = draw.log_uniform(0.5, 3.0) if draw.clear else draw.rng.uniform(0.3, 2.0)
    centres = draw.normal(clusters, features) * apart
    share = draw.rng.dirichlet(np.full(clusters, draw.rng.choice([1.0, 100.0])))
    cluster = torch.from_numpy(draw.rng.choice(clusters, rows, p=share))
    return centres[cluster] + draw.normal(rows, features), cluster % classes


def teacher_classes(rows: int, features: int, classes: int, draw: Draw) -> tuple[Tensor, Tensor]:
    """Classes by the largest output of a random network."""
    x = _inputs(_surplus(rows, draw), features, draw)
    hidden = int(draw.rng.integers(3, 33))
    first = draw.normal(features, hidden) / math.sqrt(features) * draw.rng.uniform(1, 3)
    second = draw.normal(hidden, classes) / math.sqrt(hidden) * draw.rng.uniform(1, 6)
    activation = torch.tanh if draw.rng.random() < 0.5 else torch.relu
    return _clearest(x, activation(x @ first + draw.normal(hidden) * 0.5) @ second, rows, draw)


def teacher_values(rows: int, features: int, outputs: int, draw: Draw) -> tuple[Tensor, Tensor]:
    """Standardised outputs of a random network, with noise of up to its own size."""
    x = _inputs(rows, features, draw)
    hidden = int(draw.rng.integers(2, 17))
    first = draw.normal(features, hidden) / math.sqrt(features) * draw.rng.uniform(0.5, 3)
    activation = torch.tanh if draw.rng.random() < 0.5 else torch.relu
    y = activation(x @ first + draw.normal(hidden) * 0.5) @ draw.normal(hidden, outputs)
    y = (y - y.mean(0)) / (y.std(0) + 1e-6)
    y = y + draw.normal(rows, outputs) * draw.log_uniform(0.002 if draw.clear else 0.01, 0.5)
    return x, (y - y.mean(0)) / (y.std(0) + 1e-6)


def shifted_shapes(rows: int, channels: int, side: int, classes: int, draw: Draw) -> tuple[Tensor, Tensor]:
    """Images (rows, channels, side, side): a smooth shape for each class, shifted, of varying contrast, with noise."""
    shapes = _smooth(draw.normal(classes * 2, channels, side, side), int(draw.rng.integers(1, 4)))
    which = torch.randint(0, len(shapes), (rows,), generator=draw.generator)
    furthest = int(draw.rng.integers(0, 3))
    images = shapes[which]
    if furthest:
        down, right = torch.randint(-furthest, furthest + 1, (2, rows, 1, 1), generator=draw.generator)
        i, j = torch.arange(side)[None, :, None], torch.arange(side)[None, None, :]
        flat = ((i - down) % side * side + (j - right) % side).flatten(1)[:, None].expand(-1, channels, -1)
        images = images.flatten(2).gather(2, flat).view_as(images)
    contrast = 1 + 0.3 * draw.normal(rows, 1, 1, 1)
    noise = draw.log_uniform(0.1, 2.0) if draw.clear else draw.rng.uniform(0.2, 2.0)
    return images * contrast + draw.normal(*images.shape) * noise, which % classes


def teacher_images(rows: int, channels: int, side: int, classes: int, draw: Draw) -> tuple[Tensor, Tensor]:
    """Smooth noise as images, with classes by the largest output of a random convolutional network."""
    x = _smooth(draw.normal(_surplus(rows, draw), channels, side, side), int(draw.rng.integers(0, 3)))
    filters = draw.normal(16, channels, 3, 3) / math.sqrt(9 * channels) * 2
    features = torch.relu(torch.nn.functional.conv2d(x, filters, padding=1))
    pooled = torch.nn.functional.adaptive_avg_pool2d(features, int(draw.rng.integers(1, 4))).flatten(1)
    pooled = (pooled - pooled.mean(0)) / (pooled.std(0) + 1e-6)
    return _clearest(x, pooled @ draw.normal(pooled.shape[1], classes), rows, draw)


def teacher_sequences(rows: int, length: int, features: int, classes: int, draw: Draw) -> tuple[Tensor, Tensor]:
    """Sequences (rows, length, features), with classes by the last state of a random recurrent network."""
    x = draw.normal(_surplus(rows, draw), length, features)
    hidden = int(draw.rng.integers(8, 33))
    inward = draw.normal(features, hidden) / math.sqrt(features)
    onward = draw.normal(hidden, hidden) / math.sqrt(hidden) * draw.rng.uniform(0.5, 1.3)
    state = torch.zeros(len(x), hidden)
    for place in x.unbind(1):
        state = torch.tanh(place @ inward + state @ onward)
    return _clearest(x, state @ draw.normal(hidden, classes), rows, draw)


def markov_text(rows: int, length: int, tokens: int, draw: Draw) -> tuple[Tensor, Tensor]:
    """Text (rows, length) and the tokens that follow, of a Markov source of order 1 to 3, with some noise."""
    order = int(draw.rng.integers(1, 4 if tokens <= 12 else 3))
    concentration = draw.log_uniform(0.03, 0.5)
    table = draw.rng.dirichlet(np.full(tokens, concentration), tokens**order)
    noise = draw.rng.choice([0.0, draw.rng.uniform(0.0, 0.3)])
    cumulative = torch.from_numpy(((1 - noise) * table + noise / tokens).cumsum(1)).float()
    text = torch.randint(0, tokens, (rows, order), generator=draw.generator)
    weights = tokens ** torch.arange(order)
    for _ in range(length + 8):
        context = (text[:, -order:] * weights).sum(1)
        following = (draw.uniform(rows, 1) > cumulative[context]).sum(1, keepdim=True).clamp(max=tokens - 1)
        text = torch.cat([text, following], 1)
    return text[:, -length - 1 : -1], text[:, -length:]


def mislabelled(y: Tensor, classes: int, draw: Draw) -> Tensor:
    """Class numbers of which none, a few, or many are wrong.

    A few wrong labels among clear ones make the validation loss fall far and then rise: the time to stop.
    """
    shares = [0.0, draw.log_uniform(0.005, 0.05), draw.rng.uniform(0.05, 0.3)]
    share = draw.rng.choice(shares, p=[0.7, 0.2, 0.1] if draw.clear else [0.5, 0.25, 0.25])
    wrong = draw.uniform(*y.shape) < share
    return torch.where(wrong, torch.randint(0, classes, y.shape, generator=draw.generator), y)


def rescaled(x: Tensor, draw: Draw) -> Tensor:
    """Rows of features as people have them: correlated, standardised or not, and badly scaled."""
    features = x.shape[1]
    if draw.rng.random() < 0.5:
        # Correlated inputs: a random rotation, and a spectrum that falls off.
        rotation = torch.linalg.qr(draw.normal(features, features)).Q
        spectrum = torch.arange(1, features + 1).float() ** -draw.rng.uniform(0, 1.5)
        x = x * spectrum @ rotation
    if draw.rng.random() < 0.5:
        return (x - x.mean(0)) / (x.std(0) + 1e-6)
    x = x * torch.exp(draw.normal(features) * draw.rng.uniform(0, 1))
    return (x - x.mean(0)) / (x.std() + 1e-6) * math.exp(0.3 * draw.rng.normal())


def _inputs(rows: int, features: int, draw: Draw) -> Tensor:
    """Standard normal inputs, most often of a few factors and some noise: what is measured of things hangs together."""
    x = draw.normal(rows, features)
    if draw.rng.random() < 0.7:
        factors = int(draw.rng.integers(2, 9))
        mixed = draw.normal(rows, factors) @ draw.normal(factors, features) / math.sqrt(factors)
        x = mixed + x * draw.rng.uniform(0.05, 0.5)
        x = x / (x.std(0) + 1e-6)
    return x


def _surplus(rows: int, draw: Draw) -> int:
    return int(rows / (1 - draw.rng.uniform(0, 0.9 if draw.clear else 0.75)))


def _clearest(x: Tensor, logits: Tensor, rows: int, draw: Draw) -> tuple[Tensor, Tensor]:
    # Examples near a class border are left out, up to nine tenths of them: real classes often lie apart.
    noise = draw.rng.uniform(0, 0.5) * (not draw.clear or draw.rng.random() < 0.3)
    logits = logits - logits.mean(0) + draw.normal(*logits.shape) * noise
    if draw.rng.random() < 0.3:
        # Some classes are rarer than others.
        logits = logits + draw.normal(logits.shape[1]) * logits.std() * draw.rng.uniform(0.2, 1.0)
    best, y = logits.topk(2, dim=1)
    clear = (best[:, 0] - best[:, 1]).topk(rows, sorted=False).indices.sort().values
    return x[clear], y[clear, 0]


def _smooth(images: Tensor, times: int) -> Tensor:
    for _ in range(times):
        images = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(images, (1, 1, 1, 1), "circular"), 3, stride=1)
    return images / (images.std() + 1e-6)
