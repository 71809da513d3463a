"""What a report says of its runs."""

from pathlib import Path

import synthetic

from cft import ran
from cft.config import load


def test_wall_time_per_step():
    assert ran.steps(synthetic.RUNS) == [
        {"step": "finetune", "runs": 2, "total": 91.5, "longest": 61.5, "gpu_hours": 2 * 91.5 / 3600},
        {"step": "score structured", "runs": 1, "total": 2.0, "longest": 2.0, "gpu_hours": 0},
    ]
    assert ran.steps([]) == []


def test_settings_are_described_for_readers():
    described = ran.describe(load(Path(__file__).parents[1] / "config" / "demo.yaml"))
    assert "soft targets with 2 decimals" in described["training, soft"]
    assert "at most 120 steps of 16 values" in described["training, hard"]
    assert described["benchmark, structured"].startswith("60 draws per prompt of at most 16 tokens")
    assert "training, base" not in described
