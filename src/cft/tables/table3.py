"""Retention: what an adapter costs on the five tasks of tinyBenchmarks, item by item against base."""

import pandas as pd

from cft.fit import holm
from cft.paired import BASE, five_tasks, mcnemar, mean_difference, once_for_all_seeds, scores_of
from cft.resampling import UNKNOWN, bootstrap, interval
from cft.summary import cell, collect, columns, estimate, in_order, runs, where

READS = {"scores": ["tinybenchmarks"]}
BENCHMARK = "tinybenchmarks"
LABELS = {
    "mmlu": "MMLU",
    "hellaswag": "HellaSwag",
    "truthfulqa": "TruthfulQA",
    "winogrande": "WinoGrande",
    "gsm8k_strict": "GSM8K_strict",
    "gsm8k_flexible": "GSM8K_flexible",
}
P_VALUE = "McNemar_p"


def make(scores: pd.DataFrame) -> pd.DataFrame:
    """A row per model and method; per task the score, the paired difference to base, McNemar's p for tasks of 0 and 1.

    Raises CftError when the scores hold nothing of tinyBenchmarks.
    """
    everything = collect(scores, BENCHMARK)
    correct = scores_of(scores, BENCHMARK, ["correct"])
    used = where(scores, benchmark=BENCHMARK)
    tasks = sorted(in_order(used["split"]), key=lambda task: [*LABELS, task].index(task))
    rows = runs(used)
    for row in rows:
        whose = row["model"], row["method"]
        row |= _aggregate(correct, *whose)
        for task in tasks:
            row |= _task(everything, correct, *whose, task)
    table = pd.DataFrame(rows)
    p_values = [column for column in table if column.endswith(P_VALUE)]
    table[p_values] = holm(table[p_values].to_numpy(float).ravel()).reshape(len(table), len(p_values))
    return table


def _aggregate(correct: pd.DataFrame, model: str, method: str) -> dict[str, float]:
    name = "mean_of_five_tasks"
    change = UNKNOWN if method == BASE else interval(five_tasks(correct, model, method, BASE))
    return columns(name, interval(five_tasks(correct, model, method))) | columns(f"{name}_difference", change)


def _task(everything: pd.DataFrame, correct: pd.DataFrame, model: str, method: str, task: str) -> dict[str, float]:
    label, mine = LABELS.get(task, task), cell(correct, "correct", model, method, task)
    if _has_estimate(everything, task):
        row = {f"{label}_gp-IRT": estimate(cell(everything, "gp_irt", model, method, task).dropna(how="all")).estimate}
    else:
        row = columns(f"{label}_mean", estimate(mine))
    base = pd.DataFrame() if method == BASE else cell(correct, "correct", model, BASE, task)
    base = once_for_all_seeds(base, mine)
    row |= columns(f"{label}_difference", bootstrap(mean_difference, mine, base))
    if _zero_or_one(correct, task):
        row[f"{label}_{P_VALUE}"] = mcnemar(mine, base)
    return row


def _has_estimate(everything: pd.DataFrame, task: str) -> bool:
    """Whether every run of a task has a gp-IRT estimate: a column never mixes estimates and means."""
    if "gp_irt" not in everything:
        return False
    whole = everything["gp_irt"].xs((task, "all"), level=["split", "unit"])
    return len(whole) > 0 and bool(whole.notna().all())


def _zero_or_one(correct: pd.DataFrame, task: str) -> bool:
    return bool(correct["correct"].xs(task, level="split").isin([0, 1]).all())
