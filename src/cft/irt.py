"""What a score on the whole of a benchmark would be, estimated from the few items that were answered.

Item response theory: a model has an ability theta [D]; it answers item i correctly with the probability
sigmoid(sum over d of (a_id theta_d - b_id)). Three estimates of the score on all N items, of which S were seen
(Maia Polo et al. 2024, arXiv 2402.14992, section 4; the formulas of github.com/felipemaiapolo/tinyBenchmarks):

irt     the mean over the seen items with the weights of the clusters that they stand for
p_irt   answers where seen and probabilities where not: (S/N) mean(seen) + (1 - S/N) mean(unseen), where an item weighs
        N/(number of subscenarios * items of its own), so that all subscenarios count the same
gp_irt  mixing * irt + (1 - mixing) * p_irt, with a weight that was fitted on other models

A score between 0 and 1, such as mc2, enters as it is: its part of the likelihood is that of a share, as upstream.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import optimize, special

from cft import CftError

LARGEST = 30.0  # a dimension's part of the log-odds is cut here, as when the items were calibrated
TINY = 1e-10  # keeps the logarithm of a probability of 0 or 1 finite, as upstream
KEYS = ("seen_examples", "examples_weights", "irt_parameters", "optimal_lambdas", "scenarios_position",
        "subscenarios_position")  # fmt: skip


@dataclass(frozen=True)
class Bank:
    """The calibrated items of one task.

    discrimination, difficulty   [N, D] a and b
    balance                      [N] weight of each item, mean 1 over the task
    seen                         [S] which items were asked, in the order of their data set
    weight                       [S] of the seen items in irt
    mixing                       share of irt in gp_irt
    """

    discrimination: np.ndarray
    difficulty: np.ndarray
    balance: np.ndarray
    seen: np.ndarray
    weight: np.ndarray
    mixing: float


def probability(ability: np.ndarray, discrimination: np.ndarray, difficulty: np.ndarray) -> np.ndarray:
    """[N] the probability that a model of this ability [D] answers each item [N, D] correctly."""
    return special.expit(np.clip(discrimination * ability - difficulty, -LARGEST, LARGEST).sum(axis=1))


def fit_ability(correct: np.ndarray, discrimination: np.ndarray, difficulty: np.ndarray) -> np.ndarray:
    """[D] the ability under which the answers [S], between 0 and 1, are likeliest.

    The likelihood has no maximum where all answers agree; the search, upstream's BFGS from zero, then ends where it is
    flat. It is repeatable.
    """

    def loss(ability: np.ndarray) -> float:
        p = probability(ability, discrimination, difficulty)
        return -float(correct @ np.log(p + TINY) + (1 - correct) @ np.log(1 - p + TINY))

    return optimize.minimize(loss, np.zeros(discrimination.shape[1]), method="BFGS").x


def estimates(correct: np.ndarray, bank: Bank) -> dict[str, float]:
    """irt, p_irt and gp_irt from the answers [S] to the seen items, in their order."""
    items, seen = len(bank.discrimination), bank.seen
    ability = fit_ability(correct, bank.discrimination[seen], bank.difficulty[seen])
    expected = bank.balance * probability(ability, bank.discrimination, bank.difficulty)
    unseen = np.setdiff1d(np.arange(items), seen)
    total = (bank.balance[seen] * correct).sum() + expected[unseen].sum()
    irt, p_irt = float(bank.weight @ correct), float(total / items)
    return {"irt": irt, "p_irt": p_irt, "gp_irt": bank.mixing * irt + (1 - bank.mixing) * p_irt}


def table(upstream: dict[str, Any], tasks: dict[str, str]) -> pd.DataFrame:
    """The parameters of tinyBenchmarks.pkl as one row per item, for some of its tasks.

    upstream   benchmark → KEYS: lists of positions of the seen items; weights per scenario; A and B [1, D, N]; a mixing
               weight per scenario; the positions of each scenario; those of each of its subscenarios
    tasks      the name of a scenario, or part of it → the benchmark that it is taken from
    Columns task, subscenario, discrimination, difficulty (lists of D numbers), seen (place among the seen items, -1
    where unseen), weight (NaN where unseen), mixing. Raises CftError when something is missing or does not fit.
    """
    return pd.concat([_rows(task, _benchmark(upstream, name), name) for task, name in tasks.items()], ignore_index=True)


def _benchmark(upstream: dict[str, Any], name: str) -> dict[str, Any]:
    found = upstream.get(name, {})
    if missing := [key for key in KEYS if key not in found]:
        raise CftError(f"item parameters: benchmark {name} has no {', '.join(missing)}; fetch tinyBenchmarks.pkl again")
    return found


def _rows(task: str, benchmark: dict[str, Any], name: str) -> pd.DataFrame:
    scenario = next((key for key in benchmark["scenarios_position"] if task in key), None)
    if scenario is None:
        known = ", ".join(benchmark["scenarios_position"])
        raise CftError(f"item parameters: benchmark {name} has no scenario {task}, only {known}")
    positions = np.asarray(benchmark["scenarios_position"][scenario], int)
    subscenario = pd.Series("", index=positions)
    for sub, places in benchmark["subscenarios_position"][scenario].items():
        subscenario.loc[np.asarray(places, int)] = sub
    seen = [place for place in np.asarray(benchmark["seen_examples"], int) if place in subscenario.index]
    weights = np.asarray(benchmark["examples_weights"][scenario], float)
    if len(weights) != len(seen) or not seen or (subscenario == "").any():
        raise CftError(
            f"item parameters: of {task}, {len(seen)} items were seen, {len(weights)} have weights and "
            f"{int((subscenario == '').sum())} belong to no subscenario; fetch tinyBenchmarks.pkl again"
        )
    a, b = (np.asarray(benchmark["irt_parameters"][key])[0].T[positions] for key in "AB")
    return pd.DataFrame(
        {
            "task": task,
            "subscenario": subscenario.to_numpy(),
            "discrimination": list(a),
            "difficulty": list(b),
            "seen": pd.Series(range(len(seen)), seen).reindex(positions, fill_value=-1).to_numpy(),
            "weight": pd.Series(weights, seen).reindex(positions).to_numpy(),
            "mixing": float(benchmark["optimal_lambdas"][scenario]),
        }
    )


def bank_of(parameters: pd.DataFrame, task: str) -> Bank | None:
    """The items of one task of a table(); None where it has none."""
    rows: Any = parameters[parameters["task"] == task].reset_index(drop=True)
    if rows.empty:
        return None
    sizes = rows["subscenario"].map(rows["subscenario"].value_counts())
    seen = rows[rows["seen"] >= 0].sort_values("seen")
    return Bank(
        discrimination=np.stack(rows["discrimination"].tolist()),
        difficulty=np.stack(rows["difficulty"].tolist()),
        balance=(len(rows) / (rows["subscenario"].nunique() * sizes)).to_numpy(float),
        seen=seen.index.to_numpy(),
        weight=seen["weight"].to_numpy(float),
        mixing=float(rows["mixing"].iloc[0]),
    )
