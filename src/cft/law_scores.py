"""The metrics of the structured benchmark that come from a model's law, without draws, and what perfect answers score.

Floors here are those of answers that follow the stated distribution exactly, rounded to the decimals of the target's
strings: a continuous target is thinned, so that most of them are none of its strings (cft.target.lattice_floor). They
are no draws, so that there is no quantile. That of the trie KL depends on the tokenizer and comes with the law.
"""

from collections.abc import Iterator

import pandas as pd

from cft import CftError
from cft.distributions import Registry
from cft.target import lattice_floor

BOUNDED = ("law_valid", "law_invalid", "law_ks", "law_pit_w1", "law_w1", "law_tv", "law_pit_w1_certain")
LAW_METRICS = (
    "support_probability", "trie_kl", "trie_kl_floor", "sequence_kl", "support_nll", "kl_within_support",
    *(f"{name}_{side}" for name in BOUNDED for side in ("low", "high")),
    "law_stray", "law_unresolved", "law_gap", "law_nodes",
)  # fmt: skip
LAW_FLOORS = ("support_probability_floor", "sequence_kl_floor")
SUPPORT = ("values", "target")


def law_scores(law: pd.DataFrame, registry: Registry) -> Iterator[tuple[str, str, float]]:
    """(prompt_id, metric, value) of LAW_METRICS (nats; a probability) and LAW_FLOORS, prompt by prompt.

    Raises CftError for a law of an earlier version.
    """
    needed = [*LAW_METRICS, *SUPPORT]
    if missing := [name for name in needed if name not in law]:
        raise CftError(f"the law has no column {missing[0]}: an earlier version made it; delete it and run again")
    for prompt_id, *found, values, target in law[["prompt_id", *needed]].itertuples(index=False):
        family, parameters = registry.parse(prompt_id)
        floors = lattice_floor(family.frozen(parameters), values, target)
        for metric, value in zip((*LAW_METRICS, *LAW_FLOORS), (*found, *floors), strict=True):
            yield prompt_id, metric, value
