"""The losses against hand-computed values."""

from __future__ import annotations

import math

import pytest
import torch

from colbertxm.training.losses import in_batch_softmax, pairwise_softmax


def test_pairwise_softmax_by_hand() -> None:
    # columns: positives of q0, q1, then the hard negatives of q0, q1
    scores = torch.tensor([[2.0, 9.0, 1.0, 9.0], [9.0, 0.0, 9.0, 3.0]])
    expected = (math.log(1 + math.exp(1 - 2)) + math.log(1 + math.exp(3 - 0))) / 2
    assert float(pairwise_softmax(scores)) == pytest.approx(expected)


def test_pairwise_softmax_with_two_negatives_each() -> None:
    scores = torch.tensor([[1.0, 0, 2.0, 0, 3.0, 0], [0, 1.0, 0, 2.0, 0, 3.0]])
    expected = math.log(sum(math.exp(s) for s in (1, 2, 3))) - 1
    assert float(pairwise_softmax(scores)) == pytest.approx(expected)


def test_in_batch_softmax_by_hand_counts_the_own_hard_negative() -> None:
    scores = torch.tensor([[2.0, 0.5, 1.0, -1.0], [0.0, 1.0, 0.0, 3.0]])
    rows = [math.log(sum(math.exp(float(s)) for s in row)) - float(row[i]) for i, row in enumerate(scores)]
    assert float(in_batch_softmax(scores)) == pytest.approx(sum(rows) / 2, abs=1e-6)


def test_ignored_passages_have_no_weight_and_no_gradient() -> None:
    scores = torch.tensor([[2.0, 5.0, 1.0, 0.0], [0.0, 1.0, 0.0, 3.0]], requires_grad=True)
    ignore = torch.tensor([[False, True, False, False], [False] * 4])
    loss = in_batch_softmax(scores, ignore)
    rest = [2.0, 1.0, 0.0]
    first = math.log(sum(map(math.exp, rest))) - 2.0
    second = math.log(sum(math.exp(s) for s in (0.0, 1.0, 0.0, 3.0))) - 1.0
    assert float(loss.detach()) == pytest.approx((first + second) / 2, abs=1e-6)
    loss.backward()
    assert scores.grad is not None and float(scores.grad[0, 1]) == 0.0


def test_no_negatives_means_no_pairwise_loss() -> None:
    assert float(pairwise_softmax(torch.randn(3, 3))) == 0.0
