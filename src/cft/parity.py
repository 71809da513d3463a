"""Whether another engine has the law that transformers computes, adapter included.

In float32 every log-probability of the likeliest tokens must agree. In bfloat16 a logit has 8 bits, and a single
log-probability of either engine is off by a tenth of a nat or more; what must agree there is the law as a whole, so the
tolerance bounds the Kullback-Leibler divergence: an adapter that is not applied shows in it, rounding does not.
"""

from typing import Any

import torch

from cft import CftError

PROBES = 3  # prompts
TOP = 20  # likeliest tokens that are compared after each
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.05}  # nats

LogLaw = list[dict[int, float]]  # log-probabilities of the likeliest tokens, after each probe


def check_parity(
    found: LogLaw, plain: LogLaw | None, base: torch.Tensor, tuned: torch.Tensor | None, dtype: str
) -> dict[str, Any]:
    """Compare an engine with transformers; returns the facts for run.json.

    found        the engine's law
    plain        the same without the adapter, where the engine can leave it out
    base, tuned  [probes, vocabulary] transformers' log-laws without and with the adapter
    Raises CftError when they differ by more than the tolerance of `dtype`, or when the adapter changes nothing.
    """
    facts: dict[str, Any] = {"probes": len(found), "tolerance_nats": TOLERANCE[dtype]}
    facts |= _agree(found, base if tuned is None else tuned, dtype)
    if plain is not None:
        facts["without_adapter"] = _agree(plain, base, dtype)
    if tuned is None:
        return facts
    if not _divergences(found, tuned).sum() < _divergences(found, base).sum():
        raise CftError("the engine draws from the base model: the adapter does not change its law on the probe prompts")
    return facts | {"adapter_changes_nats": round(float(_differences(found, base).abs().max()), 6)}


def _agree(found: LogLaw, expected: torch.Tensor, dtype: str) -> dict[str, float]:
    largest = float(_differences(found, expected).abs().max())
    divergence = float(_divergences(found, expected).max())
    measure, value = ("a log-probability", largest) if dtype == "float32" else ("KL divergence", divergence)
    if not value <= TOLERANCE[dtype]:
        raise CftError(
            f"vLLM and transformers differ by {value:.2g} nats of {measure} after a probe prompt, more than "
            f"{TOLERANCE[dtype]}: do not trust its draws; set the benchmark's engine to transformers"
        )
    return {"largest_difference_nats": round(largest, 8), "largest_kl_nats": round(divergence, 8)}


def _differences(found: LogLaw, expected: torch.Tensor) -> torch.Tensor:
    return torch.tensor(
        [value - float(row[token]) for law, row in zip(found, expected, strict=True) for token, value in law.items()]
    )


def _divergences(found: LogLaw, expected: torch.Tensor) -> torch.Tensor:
    """[probes] KL(expected || found), all tokens that `found` leaves out taken as one."""
    rows = []
    for law, row in zip(found, expected, strict=True):
        p, q = row[list(law)].double().exp(), torch.tensor(list(law.values()), dtype=torch.float64).exp()
        p, q = (torch.cat([x, (1 - x.sum(0, keepdim=True)).clamp(min=1e-12)]) for x in (p, q))
        rows.append((p * (p / q).log()).sum().clamp(min=0))
    return torch.stack(rows)
