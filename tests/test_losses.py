"""The losses against hand-computed values."""

from __future__ import annotations

import math

import pytest
import torch

from colbertxm.errors import UserError
from colbertxm.training.losses import (
    OwnHardNegative,
    in_batch_softmax,
    kl_distillation,
    margin_mse,
    n_way_softmax,
    own_passages,
    pairwise_softmax,
    paper_loss,
)


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


TWO = torch.tensor([[2.0, 0.5, 1.0, -1.0], [0.0, 1.0, 0.0, 3.0]])  # positives of q0, q1, then their hard negatives


def logsumexp(*scores: float) -> float:
    return math.log(sum(map(math.exp, scores)))


def test_the_code_of_the_paper_leaves_the_own_hard_negative_out() -> None:
    expected = (logsumexp(2.0, 0.5, -1.0) - 2.0 + logsumexp(0.0, 1.0, 0.0) - 1.0) / 2
    assert float(in_batch_softmax(TWO, own_hard_negative="excluded")) == pytest.approx(expected, abs=1e-6)
    with pytest.raises(UserError, match=r"'exclude' is unknown \(did you mean 'excluded'\?\)"):
        in_batch_softmax(TWO, own_hard_negative="exclude")  # type: ignore[arg-type]


def test_the_papers_loss_is_the_sum() -> None:
    pairwise = (logsumexp(2.0, 1.0) - 2.0 + logsumexp(1.0, 3.0) - 1.0) / 2
    in_batch = (logsumexp(2.0, 0.5, 1.0, -1.0) - 2.0 + logsumexp(0.0, 1.0, 0.0, 3.0) - 1.0) / 2
    assert float(paper_loss(TWO)) == pytest.approx(pairwise + in_batch, abs=1e-6)
    excluded = float(paper_loss(TWO, own_hard_negative="excluded", temperature=0.5))
    other = (logsumexp(4.0, 1.0, -2.0) - 4.0 + logsumexp(0.0, 2.0, 0.0) - 2.0) / 2
    sharper = (logsumexp(4.0, 2.0) - 4.0 + logsumexp(2.0, 6.0) - 2.0) / 2
    assert excluded == pytest.approx(sharper + other, abs=1e-6)


@pytest.mark.parametrize("reading", ["included", "excluded"])
def test_the_mean_over_ranks_of_their_rows_is_the_loss_of_all_rows(reading: OwnHardNegative) -> None:
    scores = torch.randn(6, 18, generator=torch.Generator().manual_seed(2))
    ignore = torch.zeros(6, 18, dtype=torch.bool)
    ignore[1, 4] = ignore[5, 13] = True
    parts = [
        paper_loss(scores[i : i + 2], ignore[i : i + 2], own_hard_negative=reading, queries=6, first=i)
        for i in (0, 2, 4)
    ]
    whole = paper_loss(scores, ignore, own_hard_negative=reading)
    assert float(sum(parts)) / 3 == pytest.approx(float(whole), abs=1e-6)
    for first, queries in ((5, 6), (-1, 6), (0, 7)):
        with pytest.raises(ValueError, match="scores 2 x 18"):
            pairwise_softmax(scores[:2], queries=queries, first=first)


def test_n_way_softmax_and_own_passages() -> None:
    scores = torch.tensor([[1.0, 9, 2.0, 9, 3.0, 9], [9, 4.0, 9, 5.0, 9, 6.0]])
    assert own_passages(scores).tolist() == [[1, 2, 3], [4, 5, 6]]
    expected = logsumexp(1.0, 2.0, 3.0) - 1.0
    assert float(n_way_softmax(own_passages(scores))) == pytest.approx(expected, abs=1e-6)
    assert float(n_way_softmax(own_passages(scores), 2.0)) == pytest.approx(logsumexp(0.5, 1.0, 1.5) - 0.5, abs=1e-6)


def test_kl_distillation_by_hand() -> None:
    student, teacher = torch.tensor([[0.0, math.log(3)], [1.0, 1.0]]), torch.tensor([[0.0, 0.0], [5.0, 5.0]])
    # teacher (1/2, 1/2) against student (1/4, 3/4), and no difference in the second row
    expected = (0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)) / 2
    assert float(kl_distillation(student, teacher)) == pytest.approx(expected, abs=1e-6)
    assert float(kl_distillation(teacher, teacher + 7)) == pytest.approx(0, abs=1e-6)
    # each side's own temperature takes its own scale back out
    sharp = torch.tensor([[0.0, math.log(9)]])
    scaled = kl_distillation(student[:1] * 3, sharp / 4, temperature=3.0, teacher_temperature=0.5)
    assert float(scaled) == pytest.approx(0, abs=1e-6)
    scaled = kl_distillation(student * 2, teacher, temperature=2.0, teacher_temperature=0.5)
    assert float(scaled) == pytest.approx(expected, abs=1e-6)
    asymmetric = torch.tensor([[0.0, math.log(3)]])
    reverse = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert float(kl_distillation(torch.zeros(1, 2), asymmetric)) == pytest.approx(reverse, abs=1e-6)


def test_margin_mse_by_hand() -> None:
    student, teacher = (
        torch.tensor([[3.0, 1.0, 2.0], [0.0, 0.0, 4.0]]),
        torch.tensor([[9.0, 4.0, 9.0], [1.0, 0.0, 3.0]]),
    )
    # margins 2, 1, 0, -4 against 5, 0, 1, -2
    assert float(margin_mse(student, teacher)) == pytest.approx((9 + 1 + 1 + 4) / 4)
    with pytest.raises(UserError, match="at least one negative"):
        margin_mse(student[:, :1], teacher[:, :1])


@pytest.mark.parametrize("name", ["included", "excluded", "n_way", "kl", "margin"])
def test_gradients(name: str) -> None:
    generator = torch.Generator().manual_seed(4)
    scores = torch.randn(3, 9, generator=generator, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    ignore = torch.zeros(3, 9, dtype=torch.bool)
    ignore[0, 4] = ignore[2, 1] = True
    losses = {
        "included": lambda s: paper_loss(s, ignore, temperature=0.7),
        "excluded": lambda s: paper_loss(s, ignore, "excluded", temperature=0.7),
        "n_way": lambda s: n_way_softmax(own_passages(s), 0.3),
        "kl": lambda s: kl_distillation(own_passages(s), teacher, 0.3, 2.0),
        "margin": lambda s: margin_mse(own_passages(s), teacher),
    }
    assert torch.autograd.gradcheck(losses[name], (scores,))
