"""Estimates from few items: against a grid of abilities, closed forms, and loops over the published definitions."""

import math

import numpy as np
import pytest

from cft import CftError
from cft.irt import Bank, bank_of, estimates, fit_ability, probability, table


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def items(seen, dimensions=1, seed=0):
    generator = np.random.default_rng(seed)
    a, b = generator.uniform(0.5, 1.5, (seen, dimensions)), generator.normal(0, 1, (seen, dimensions))
    return a, b, generator


@pytest.mark.parametrize("kind", ["0 or 1", "shares"])
def test_ability_is_the_best_of_a_grid(kind):
    a, b, generator = items(40)
    correct = generator.random(40) if kind == "shares" else (generator.random(40) < 0.6).astype(float)
    grid = np.linspace(-6, 6, 120001)
    p = 1 / (1 + np.exp(-(a * grid - b)))
    best = grid[(correct @ np.log(p) + (1 - correct) @ np.log(1 - p)).argmax()]
    assert fit_ability(correct, a, b) == pytest.approx([best], abs=2e-4)


def test_ability_in_two_dimensions():
    a, b, generator = items(60, 2)
    correct = (generator.random(60) < probability(np.array([1.0, -0.5]), a, b)).astype(float)
    axis = np.linspace(-4, 4, 801)
    first, second = (part.ravel() for part in np.meshgrid(axis, axis))
    p = 1 / (1 + np.exp(-(a @ np.stack([first, second]) - b.sum(1)[:, None])))
    best = (correct @ np.log(p) + (1 - correct) @ np.log(1 - p)).argmax()
    assert fit_ability(correct, a, b) == pytest.approx([first[best], second[best]], abs=0.01)


def test_probability_by_hand():
    found = probability(
        np.array([2.0, -1.0]), np.array([[0.5, 1.0], [100.0, 0.0]]), np.array([[0.25, 0.5], [0.0, 1.0]])
    )
    assert found == pytest.approx([sigmoid(1 - 0.25 - 1 - 0.5), sigmoid(30 - 1)])  # 200 is cut to 30


def small_bank(mixing):
    """Five items in subscenarios of three and two; the fourth and the first were asked, in this order."""
    a, b, _ = items(5, seed=3)
    weights = {"x": 5 / (2 * 3), "y": 5 / (2 * 2)}
    return Bank(a, b, np.array([weights[sub] for sub in "xxxyy"]), np.array([3, 0]), np.array([0.7, 0.3]), mixing)


def test_estimates_by_hand():
    bank = small_bank(0.25)
    found = estimates(np.array([1.0, 0.0]), bank)
    theta = float(fit_ability(np.array([1.0, 0.0]), bank.discrimination[[3, 0]], bank.difficulty[[3, 0]])[0])
    p = [sigmoid(float(a) * theta - float(b)) for a, b in zip(bank.discrimination, bank.difficulty, strict=True)]
    # The mean of the two subscenarios: items 0, 1, 2 (the first was wrong), items 3 (right) and 4.
    p_irt = ((0 + p[1] + p[2]) / 3 + (1 + p[4]) / 2) / 2
    assert found["irt"] == pytest.approx(0.7)
    assert found["p_irt"] == pytest.approx(p_irt, rel=1e-12)
    assert found["gp_irt"] == pytest.approx(0.25 * 0.7 + 0.75 * p_irt, rel=1e-12)


@pytest.mark.parametrize(("mixing", "other"), [(0.0, "p_irt"), (1.0, "irt")])
def test_ends_of_the_mixture(mixing, other):
    found = estimates(np.array([0.4, 1.0]), small_bank(mixing))
    assert found["gp_irt"] == found[other]


@pytest.mark.parametrize("answer", [0.0, 1.0])
def test_answers_that_all_agree_have_an_estimate(answer):
    a, b, _ = items(50)
    bank = Bank(a, b, np.ones(50), np.arange(20), np.full(20, 1 / 20), 0.5)
    found = estimates(np.full(20, answer), bank)
    assert found["gp_irt"] == pytest.approx(answer, abs=0.01)
    assert found == estimates(np.full(20, answer), bank)


def published():
    """Two benchmarks in the form of the published parameters; the scenarios of lb are interleaved."""
    generator = np.random.default_rng(5)
    return {
        "lb": {
            "seen_examples": [6, 0, 3, 7],
            "examples_weights": {"arc": np.array([0.9, 0.1]), "harness_truthfulqa": np.array([0.4, 0.6])},
            "irt_parameters": {"A": generator.uniform(0.5, 2, (1, 2, 9)), "B": generator.normal(0, 1, (1, 2, 9))},
            "optimal_lambdas": {"arc": 0.1, "harness_truthfulqa": 0.6},
            "scenarios_position": {"arc": [1, 3, 5, 7], "harness_truthfulqa": np.array([0, 2, 4, 6, 8])},
            "subscenarios_position": {
                "arc": {"only": [1, 3, 5, 7]},
                "harness_truthfulqa": {"p": np.array([0, 2, 4]), "q": [6, 8]},
            },
        },
        "mmlu": {
            "seen_examples": np.array([1]),
            "examples_weights": {"mmlu": [1.0]},
            "irt_parameters": {"A": np.ones((1, 2, 2)), "B": np.zeros((1, 2, 2))},
            "optimal_lambdas": {"mmlu": 0.5},
            "scenarios_position": {"mmlu": [0, 1]},
            "subscenarios_position": {"mmlu": {"algebra": [0], "law": [1]}},
        },
    }


def by_definition(upstream, scenario, answers):
    """The three estimates, item by item, from the dictionaries themselves."""
    a, b = upstream["irt_parameters"]["A"][0], upstream["irt_parameters"]["B"][0]
    positions = list(upstream["scenarios_position"][scenario])
    seen = [i for i in upstream["seen_examples"] if i in positions]
    answer = dict(zip(seen, answers, strict=True))
    theta = fit_ability(np.array(answers), a[:, seen].T, b[:, seen].T)
    groups = upstream["subscenarios_position"][scenario]
    total = 0.0
    for members in groups.values():
        for i in members:
            p = sigmoid(sum(a[d, i] * theta[d] - b[d, i] for d in range(len(theta))))
            total += answer.get(i, p) / (len(groups) * len(members))
    irt = sum(w * x for w, x in zip(upstream["examples_weights"][scenario], answers, strict=True))
    mixing = upstream["optimal_lambdas"][scenario]
    return {"irt": irt, "p_irt": total, "gp_irt": mixing * irt + (1 - mixing) * total}


def test_a_table_holds_what_the_estimates_need():
    upstream = published()
    frame = table(upstream, {"mmlu": "mmlu", "truthfulqa": "lb", "arc": "lb"})
    assert frame.groupby("task").size().to_dict() == {"mmlu": 2, "truthfulqa": 5, "arc": 4}
    for task, scenario, answers in [("truthfulqa", "harness_truthfulqa", [0.8, 0.1]), ("arc", "arc", [0.9, 0.3])]:
        found = estimates(np.array(answers), bank_of(frame, task))
        assert found == pytest.approx(by_definition(upstream["lb"], scenario, answers), rel=1e-9)
    assert bank_of(frame, "gsm8k") is None


def test_order_of_the_seen_items_is_kept():
    """The first item of truthfulqa's data set is the one at place 6: the fourth of the scenario."""
    bank = bank_of(table(published(), {"truthfulqa": "lb"}), "truthfulqa")
    assert bank.seen.tolist() == [3, 0] and bank.weight.tolist() == [0.4, 0.6]
    assert bank.balance.mean() == pytest.approx(1)


def test_parameters_that_do_not_fit_are_named():
    upstream = published()
    with pytest.raises(CftError, match="benchmark alpaca has no seen_examples"):
        table(upstream, {"x": "alpaca"})
    with pytest.raises(CftError, match="has no scenario gsm8k, only arc, harness_truthfulqa"):
        table(upstream, {"gsm8k": "lb"})
    upstream["mmlu"]["examples_weights"]["mmlu"] = [0.5, 0.5]
    with pytest.raises(CftError, match="of mmlu, 1 items were seen, 2 have weights"):
        table(upstream, {"mmlu": "mmlu"})
