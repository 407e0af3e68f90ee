from __future__ import annotations

import torch
from metatuner.envs.data_sets import data_set_used, fingerprint
from torch.utils.data import TensorDataset

DATA = [torch.arange(6.0).reshape(3, 2), torch.tensor([0, 1, 2])]


def test_a_fingerprint_is_of_the_contents_alone() -> None:
    assert fingerprint(DATA) == fingerprint([part.clone() for part in DATA])
    assert fingerprint([DATA[0].t().contiguous().t(), DATA[1]]) == fingerprint(DATA)  # however it lies in memory
    assert len(fingerprint(DATA)) == 32


def test_what_differs_has_another_fingerprint() -> None:
    changed = DATA[0].clone()
    changed[2, 1] += 1e-6 * 5
    others = [[changed, DATA[1]], DATA[:1], DATA[::-1], [DATA[0].flatten(), DATA[1]], [DATA[0].double(), DATA[1]]]
    assert len({fingerprint(DATA), *(fingerprint(other) for other in others)}) == 6


def test_an_empty_and_a_half_precision_tensor_have_one() -> None:
    assert fingerprint([torch.empty(0, 3)]) != fingerprint([torch.empty(3, 0)])
    assert fingerprint([torch.ones(2, dtype=torch.bfloat16)])


def test_the_record_tells_rows_and_shapes() -> None:
    used = data_set_used("toy", TensorDataset(*DATA), context="validation", source="made up", trial=3)
    assert (used.name, used.context, used.trial, used.digest) == ("toy", "validation", 3, fingerprint(DATA))
    assert used.profile == {"rows": 3, "shapes": [[3, 2], [3]]}
