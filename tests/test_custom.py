"""Targets of one's own: read right, against closed forms; and every mistake is told with its line."""

import numpy as np
import pytest
from scipy import stats

from cft import CftError
from cft.custom import read

DIE = "prompt: Roll {outcomes}.\noutcomes:\n  1: 1/6\n  2: 1/6\n  3: 1/6\n  4: 1/6\n  5: 1/6\n  6: 1/6\n"


@pytest.fixture
def own(tmp_path):
    """A target from the text of a file of this name."""

    def made(text, name="mine.yaml", prompts=()):
        (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
        return read(tmp_path / name, prompts)

    return made


def test_named_outcomes_are_read_as_they_are_written(own):
    die = own(DIE)
    assert die.name == "mine" and die.frozen is None and die.held_out == []
    assert die.target.values == list("123456") and die.target.probabilities == pytest.approx(np.full(6, 1 / 6))
    assert die.prompts == ["Roll 1, 2, 3, 4, 5, 6."]
    # YAML itself would read these as a truth value, a number in base 8 and a float.
    odd = own("prompts: [a, b]\nheld_out: c {x y}\noutcomes: {yes: 0.5, 010: 0.25, 1e3: 0.25}")
    assert odd.target.values == ["yes", "010", "1e3"] and odd.prompts == ["a", "b"] and odd.held_out == ["c {x y}"]


def test_a_table_from_a_spreadsheet(own):
    text = b'\xef\xbb\xbfoutcome,probability\r\n"under 18, with parents",0.25\r\n\r\nolder,0.75\r\n'
    ages = own(text, "ages.csv", ["How old? {outcomes}"])
    assert ages.target.values == ["under 18, with parents", "older"]
    assert ages.target.probabilities.tolist() == [0.25, 0.75]
    assert ages.prompts == ["How old? under 18, with parents, older"]


def test_a_distribution_of_scipy_is_cut_and_binned_like_the_families(own):
    text = "prompt: wait\ndistribution:\n  name: gamma\n  parameters: {a: 2, scale: 3}\ndecimals: 1\n"
    wait = own(text)
    law, values = stats.gamma(2, scale=3), np.array(wait.target.values, float)
    assert values[0] == np.ceil(10 * law.ppf(0.001)) / 10 and values[-1] == np.floor(10 * law.ppf(0.999)) / 10
    assert np.diff(values) == pytest.approx(0.1)
    inner = law.cdf(values[1:-1] + 0.05) - law.cdf(values[1:-1] - 0.05)
    assert wait.target.probabilities[1:-1] == pytest.approx(inner)
    assert wait.target.probabilities[0] == pytest.approx(law.cdf(values[0] + 0.05))
    assert wait.frozen.mean() == 6 and wait.decimals == 1


def test_a_discrete_distribution_has_whole_numbers(own):
    coins = own("prompt: heads\ndistribution: {name: binom, parameters: {n: 10, p: 1/2}}")
    assert coins.target.values == [str(i) for i in range(11)] and coins.decimals is None
    assert coins.target.probabilities == pytest.approx(stats.binom(10, 0.5).pmf(np.arange(11)))


GAMMA = "prompt: x\ndistribution:\n  name: gamma\n  parameters: "


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("prompt: x\noutcomes:\n  A: 0.5\n  B: 0.6\n", r":3: the probabilities sum to 1.1, not to 1"),
        ("prompt: x\noutcomes:\n  A: 0.33\n  B: 0.33\n  C: 0.33\n", r"to 0.99, not to 1; write fractions such as 1/3"),
        ("prompt: x\noutcomes:\n  A: 0.5\n  A: 0.5\n", r":4: 'A' is there already"),
        ("prompt: x\noutcomes:\n  A: 1.5\n  B: -0.5\n", r":3: the probability of 'A' is 1.5, not between 0 and 1"),
        ("prompt: x\noutcomes:\n  A: half\n", r":3: 'half' is not a number"),
        ("prompt: x\noutcomes:\n  A: 1/0\n", r":3: '1/0' is not a number"),
        ("prompt: x\noutcomes:\n  A:\n", r":3: expected a text or a number"),
        ("prompt: x\noutcomes: {}\n", r":2: there are no outcomes"),
        ("prompt: x\noutcomes:\n  - A\n", r":3: expected `name: value` lines"),
        ("prompt: x\noutcomes:\n  'A ': 1\n", r":3: outcome 'A ' is empty, or begins or ends with a blank"),
        ("prompt: x\noutcomes:\n  something else: 1\n", r":3: .*choose another"),
        ("prompt: x\n\nresults: {A: 1}\n", r":3: unknown key 'results'; known: prompt"),
        ("prompt: x\n", r":1: it needs one of the keys outcomes and distribution"),
        ("outcomes: {A: 1}\n", r":1: it needs one of the keys prompt"),
        ("prompts: []\noutcomes: {A: 1}\n", r":1: the list is empty"),
        ("prompts:\n  - x\n  - x\noutcomes: {A: 1}\n", r":3: this prompt is there already"),
        ("prompts:\n  - x\n  - say {outcome}\noutcomes: {A: 1}\n", r":3: unknown placeholder \{outcome\}"),
        ("prompts:\n  - x\n  - say { outcomes }\noutcomes: {A: 1}\n", r":3: unknown placeholder \{ outcomes \}"),
        ("prompt: x\noutcomes: {A: 1}\ndecimals: 2\n", r":3: decimals go with a distribution"),
        ("prompt: [\n", r":2: not YAML"),
        ("- a\n", r":1: a target is a mapping"),
        ("", r":1: a target is a mapping"),
        (b"prompt: x\noutcomes: {A: \xff}\n", r":2: not UTF-8"),
        (GAMMA + "{a: 2, shape: 3}\n", r":4: unknown key 'shape'; known: a, loc, scale"),
        (GAMMA + "{scale: 3}\n", r":3: gamma needs the parameters a"),
        (GAMMA + "{a: 2, scale: 0.0001}\n", r":3: with 2 decimals it is 0\.00 always; give more decimals"),
        (GAMMA + "{a: 2, scale: 0.0001}\ndecimals: 3\n", r":3: with 3 decimals it is 0\.00\d always"),
        ("prompt: x\ndistribution: {name: zipf, parameters: {a: 1.01}}\n", r":2: SciPy sums .* term by term"),
        ("prompt: x\ndistribution: {name: poisson, parameters: {mu: 3, loc: 1/2}}\n", r":2: loc of poisson must be"),
        ("prompt: x\ndistribution: {name: poisson, parameters: {mu: -3}}\n", r":2: poisson with these param"),
        (GAMMA + "{a: -2}\n", r":3: gamma with these parameters is not a distribution"),
        (GAMMA + "{a: 2}\ndecimals: many\n", r":5: decimals are a whole number"),
        ("prompt: x\ndistribution: {name: gama}\n", r":2: scipy.stats has no distribution 'gama'"),
        ("prompt: x\ndistribution: {name: binom, parameters: {n: 3, p: 1/2}}\ndecimals: 1\n", r":3: binom has whole"),
        ("prompt: '{outcomes}'\ndistribution: {name: norm}\n", r":1: \d+ outcomes are too many to list"),
    ],
)  # fmt: skip
def test_mistakes_in_yaml(own, text, told):
    with pytest.raises(CftError, match="mine.yaml" + told if told.startswith(":") else told):
        own(text)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("outcome,chance\nA,1\n", r":1: the first line must be outcome,probability"),
        ("outcome,probability\nA,1\nB\n", r":3: expected an outcome and a probability, not 1 cells"),
        ("outcome,probability\nA,0.5\n\nA,0.5\n", r":4: outcome 'A' stands in line 2 already"),
        ("outcome,probability\n", r":1: there are no outcomes"),
        ("outcome,probability\nA,0.5\nB,0.4\n", r":1: the probabilities sum to 0.9"),
        ("outcome,probability\n,1\n", r":2: outcome '' is empty"),
    ],
)
def test_mistakes_in_csv(own, text, told):
    with pytest.raises(CftError, match="mine.csv" + told):
        own(text, "mine.csv", ["x"])


def test_prompts_come_from_one_place(own, tmp_path):
    with pytest.raises(CftError, match="has no prompt; give one with --prompt"):
        own("outcome,probability\nA,1\n", "mine.csv")
    with pytest.raises(CftError, match=r"--prompt goes with a \.csv file"):
        own(DIE, prompts=["x"])
    with pytest.raises(CftError, match="no such file"):
        read(tmp_path / "nothing.yaml")
    with pytest.raises(CftError, match=r"a \.yaml or a \.csv file"):
        own(DIE, "mine.txt")
