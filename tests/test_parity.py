"""The comparison of two engines' laws: what passes, what is an error."""

import math

import pytest
import torch

from cft import CftError
from cft.parity import TOP, check_parity


def laws(seed, noise=0.0, vocabulary=50):
    torch.manual_seed(seed)
    logits = torch.randn(3, vocabulary) * 2
    return (logits + noise * torch.randn(3, vocabulary)).log_softmax(-1)


def top(law):
    return [dict(zip(row.topk(TOP).indices.tolist(), row.topk(TOP).values.tolist(), strict=True)) for row in law]


def test_the_same_law_agrees():
    base, tuned = laws(1), laws(2)
    facts = check_parity(top(tuned), None, base, tuned, "float32")
    assert facts["largest_difference_nats"] < 1e-6 and facts["largest_kl_nats"] < 1e-9
    assert facts["adapter_changes_nats"] > 1
    assert check_parity(top(base), None, base, None, "bfloat16")["largest_kl_nats"] < 1e-9
    assert check_parity(top(tuned), top(base), base, tuned, "float32")["without_adapter"]["largest_kl_nats"] < 1e-9


@pytest.mark.parametrize(("dtype", "passes", "fails"), [("float32", 1e-4, 1e-2), ("bfloat16", 0.1, 0.6)])
def test_noise_up_to_the_tolerance_of_the_dtype(dtype, passes, fails):
    base = laws(1)
    check_parity(top(laws(1, passes)), None, base, None, dtype)
    with pytest.raises(CftError, match=r"differ by .* nats .*engine to transformers"):
        check_parity(top(laws(1, fails)), None, base, None, dtype)


def test_kl_counts_what_is_left_out():
    """Against the closed form: three likeliest tokens hold 0.9 and 0.6, the rest is one outcome."""
    expected = torch.tensor([[0.3, 0.3, 0.3, 0.05, 0.05]]).log()
    found = [{token: math.log(0.28) for token in range(3)}]
    kl = 0.9 * math.log(0.3 / 0.28) + 0.1 * math.log(0.1 / 0.16)
    facts = check_parity(found, None, expected, None, "bfloat16")
    assert facts["largest_kl_nats"] == pytest.approx(kl, abs=1e-6)


def test_an_engine_that_ignores_the_adapter():
    base = laws(1)
    slightly = (base + 2e-4 * torch.randn(3, 50)).log_softmax(-1)
    with pytest.raises(CftError, match="draws from the base model"):
        check_parity(top(base), None, base, slightly, "float32")
    with pytest.raises(CftError, match="draws from the base model"):
        check_parity(top(base), top(base), base, slightly, "float32")
    with pytest.raises(CftError, match="differ by"):
        check_parity(top(base), None, base, laws(2), "bfloat16")
