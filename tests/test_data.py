"""The order of training examples, their draws, and that the same seed gives the same bytes."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from cft.data import order, write_data
from cft.method_settings import FinetuneMethod
from cft.streams import stream
from cft.target import make_target


def method(**changes):
    settings = {
        "kind": "finetune",
        "labels": "law",
        "average": "value",
        "max_bins": 101,
        "decimals": 2,
        "epochs": 3,
        "draws": 1,
    }
    return FinetuneMethod.model_validate(settings | changes)


SOFT = method()
HARD = method(labels="draw", average="token", epochs=2, draws=16)


def test_steps_are_those_of_the_paper(families):
    prompts = families.select("train")
    soft, hard = order(prompts, SOFT, 11), order(prompts, HARD, 11)
    assert soft["step"].nunique() == 189
    assert hard["step"].nunique() == 1988
    assert soft.groupby("step").size().value_counts().to_dict() == {32: 186, 4: 3}


def test_every_prompt_has_its_draws_in_every_epoch(families):
    prompts = families.select("train")
    found = order(prompts, HARD, 11).groupby(["epoch", "prompt"])["draw"].agg(lambda draws: sorted(draws))
    assert len(found) == 2 * len(prompts)
    assert all(draws == list(range(16)) for draws in found)


def test_families_take_turns(families):
    prompts = families.select("train")
    found = order(prompts, SOFT, 11)
    names = [prompts[i].family for i in found["prompt"]]
    for first in range(0, 24 * 10, 24):
        assert len(set(names[first : first + 24])) == 24
    left = {name: [p.family for p in prompts].count(name) for name in set(names)}
    for position in range(len(prompts)):
        left[names[position]] -= 1
        if position % 97 == 0:  # a family is at most one turn ahead of any other that still has prompts
            alive = [name for name in left if left[name] > 0]
            taken = [sum(p.family == name for p in prompts) - left[name] for name in alive]
            assert max(taken) - min(taken) <= 1


def test_values_of_a_prompt_travel_together(families):
    found = order(families.select("train"), method(draws=4, draws_per_prompt=4, batch_size=16, epochs=1), 3)
    groups = found["prompt"].to_numpy().reshape(-1, 4)
    assert (groups == groups[:, :1]).all()
    assert (found["draw"].to_numpy().reshape(-1, 4) == [0, 1, 2, 3]).all()
    assert order(families.select("train"), method(max_steps=5), 3)["step"].max() == 4


def test_same_seed_same_bytes_and_neighbours_share_nothing(families, tmp_path):
    short = method(max_steps=6)
    for name, seed in (("a", 11), ("b", 11), ("c", 12)):
        write_data(families, short, seed, tmp_path / name)
    for file in ("prompts.parquet", "examples.parquet"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    a, c = (pd.read_parquet(tmp_path / name / "examples.parquet") for name in "ac")
    assert (a["prompt_id"] == c["prompt_id"]).mean() < 0.05
    uniform = np.stack([stream(seed, "values", "gaussian(mu=0.0,sigma=1.0)", 0).random(4000) for seed in (11, 12)])
    assert abs(np.corrcoef(uniform)[0, 1]) < 4 / np.sqrt(4000)
    assert abs(np.corrcoef(uniform[0, 1:], uniform[1, :-1])[0, 1]) < 4 / np.sqrt(4000)


def test_labels_that_nobody_knows_are_not_taken_for_laws(families, tmp_path):
    with pytest.raises(AssertionError, match="'flat'"):
        write_data(families, SOFT.model_copy(update={"labels": "flat"}), 11, tmp_path)


def test_targets_are_stored_where_labels_are_laws(families, tmp_path):
    write_data(families, method(max_steps=2), 1, tmp_path / "soft")
    write_data(families, method(max_steps=2, labels="draw"), 1, tmp_path / "hard")
    soft, hard = (pd.read_parquet(tmp_path / name / "prompts.parquet") for name in ("soft", "hard"))
    for _, row in soft.head(5).iterrows():
        family, parameters = families.parse(row["prompt_id"])
        target = make_target(families, family.name, parameters, 2, 101)
        assert list(row["values"]) == target.values
        np.testing.assert_array_equal(row["probabilities"], target.probabilities)
    assert hard["values"].isna().all()
    examples = pd.read_parquet(tmp_path / "soft" / "examples.parquet")
    values = soft.set_index("prompt_id")["values"]
    assert all(row.value in values[row.prompt_id] for row in examples.itertuples())


@pytest.mark.parametrize("family", ["gaussian", "poisson"])
def test_drawn_values_follow_the_target(families, family, tmp_path, monkeypatch):
    parameters = {"gaussian": {"mu": 0.0, "sigma": 1.0}, "poisson": {"lambda": 3.0}}[family]
    prompt = next(p for p in families.prompts if p.family == family)
    monkeypatch.setattr(
        families, "select", lambda split: [type(prompt)("x", split, family, parameters, "text", True, False)]
    )
    write_data(families, method(epochs=2, draws=4000, max_bins=21, decimals=1), 5, tmp_path)
    counts = pd.read_parquet(tmp_path / "examples.parquet")["value"].value_counts()
    target = make_target(families, family, parameters, 1, 21)
    assert set(counts.index) <= set(target.values)
    found = counts.reindex(target.values, fill_value=0).to_numpy()
    # Chi-square over cells of at least five expected values; a fixed seed, so this cannot fail by chance later.
    enough = target.probabilities * 8000 >= 5
    expected = np.append(target.probabilities[enough], target.probabilities[~enough].sum()) * 8000
    observed = np.append(found[enough], found[~enough].sum())
    keep = expected > 0
    assert stats.chisquare(observed[keep], expected[keep]).pvalue > 0.001
