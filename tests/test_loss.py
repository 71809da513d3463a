"""The log-probabilities that write their gradient over the logits, against PyTorch's own."""

import pytest
import torch

from cft import loss
from cft.loss import law_loss


def labels(places=7, vocabulary=11):
    """Label rows in no order of their places, several at one place, which name tokens more than once."""
    torch.manual_seed(3)
    place = torch.tensor([4, 0, 6, 4, 4, 1, 0])  # nothing labels 2, 3 and 5
    row = torch.tensor([0, 0, 1, 2, 2, 3, 4, 4, 4, 5, 6])
    token = torch.tensor([1, 10, 0, 1, 2, 1, 3, 1, 10, 7, 0])
    logits = 4 * torch.randn(places, vocabulary, dtype=torch.float64)
    return logits, (place, row, token, torch.rand(len(row), dtype=torch.float64), torch.rand(len(place)).double())


def plainly(logits, place, row, token, probability, weight, temperature):
    """The same by PyTorch's operations, one label row after another."""
    log_model = (logits / temperature).log_softmax(-1)
    total = logits.new_zeros(())
    for number, at in enumerate(place):
        law = probability[row == number].clamp(min=loss.FLOOR)
        law = law / law.sum()
        total = total + weight[number] * (law * (law.log() - log_model[at, token[row == number]])).sum()
    return total


@pytest.mark.parametrize("part", [1, 11, 30, 2**20])  # a row at a time, also where a row is longer; two; all
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_loss_and_gradient(part, temperature, dtype, monkeypatch):
    monkeypatch.setattr(loss, "PART", part)
    values, given = labels()
    values = values.to(getattr(torch, dtype)).requires_grad_()
    wanted = plainly(values if dtype == "float64" else values.float(), *given, temperature)
    (slope,) = torch.autograd.grad(wanted, values)
    logits = values.detach().clone().requires_grad_()
    found = law_loss(logits * 1, *given, temperature)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-12 if dtype == "float64" else 1e-5)
    (3 * found).backward()
    error = {"float64": 1e-12, "float32": 1e-6, "bfloat16": 2**-7}[dtype]
    torch.testing.assert_close(logits.grad, 3 * slope, rtol=error, atol=error)
    assert logits.grad is not None and logits.grad.dtype == values.dtype
    assert not logits.grad[2].any() and logits.grad[4].any()


def test_a_second_backward_pass_is_refused():
    logits, given = labels()
    found = law_loss(logits.requires_grad_() * 1, *given)
    found.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        found.backward()


def test_logits_that_someone_else_keeps_are_not_silently_wrong():
    """A model whose last step keeps what it returns: its backward pass would read the gradient instead."""
    logits, given = labels()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        law_loss(logits.requires_grad_().tanh(), *given).backward()
