"""Plausible made-up scores and draws, for the tests of tables, figures and the report."""

import itertools

import numpy as np
import pandas as pd
from scipy import stats

from cft.benchmark_settings import PALOMA_SLICES
from cft.distributions import registry
from cft.stats import curve_points

MODELS = [
    "Qwen3-0.6B", "Qwen3-1.7B", "Qwen3-4B", "Qwen3-8B", "Qwen3-14B", "Llama-3.2-1B-Instruct", "Llama-3.2-3B-Instruct",
    "gemma-3-1b-it", "gemma-3-4b-it", "gemma-3-12b-it", "gemma-3-27b-it", "gpt-oss-20b",
]  # fmt: skip
METHODS = ["base", "soft", "hard"]
PROMPTING = ["ssot", "verbalised", "temperature"]  # run on the structured and open-ended benchmarks only
TOKENS = {"base": 6.0, "ssot": 900.0, "verbalised": 120.0}
TASKS = {
    "mmlu": 0.6,
    "hellaswag": 0.7,
    "truthfulqa": 0.45,
    "winogrande": 0.55,
    "gsm8k_strict": 0.6,
    "gsm8k_flexible": 0.65,
}
SLICES = dict(zip(PALOMA_SLICES, (15.0, 25.0, 20.0, 18.0, 40.0, 12.0, 30.0), strict=True))
# Per method: valid rate, support probability, trie KL, sequence KL, normalised W1, PIT W1; a made-up tuned quality.
LEVELS = {"base": (0.05, 0.001, 1.6, 10.0, 1.3, 0.45), "soft": (0.96, 0.55, 0.15, 2.2, 0.12, 0.07)}
TUNED = (0.94, 0.5, 0.2, 2.8, 0.09, 0.09)
NAMES = ("valid_rate", "support_probability", "trie_kl", "sequence_kl", "w1_over_scale", "pit_w1")
FLOORS = {
    "w1_over_scale_floor": 0.03,
    "pit_w1_floor": 0.012,
    "support_probability_floor": 0.25,
    "sequence_kl_floor": 5.5,
    "trie_kl_floor": 0.3,
}
WEEKDAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
CITIES = ["Paris", "Tokyo", "Lima", "Cairo", "Oslo", "Quito", "Nairobi", "The ancient city of Constantinople", "Kyoto",
          "Berlin", "Sydney", "Accra"]  # fmt: skip
PROMPTS = [prompt for split in ("unseen_params", "unseen_families") for prompt in registry().select(split, True)]
CARD = {"name": "A card", "driver": "580.1", "uuid": "GPU-1"}
RUN = {
    "command": ["cft", "finetune", "--model", "m"],
    "started": "2026-05-20T10:00:00Z",
    "seconds": 61.5,
    "code": {"commit": "abc123", "modified": True},
    "packages": {"torch": "2.13.0"},
    "python": "3.11.9",
    "machine": {"system": "Linux", "processor": "A processor", "cores": 2, "gpus": [CARD, CARD]},
    "container": {"name": "cft-finetune", "digest": None, "sif_sha256": "0123abc"},
}
RUNS = [
    RUN | {"command": ["cft", "score", "structured", "results/x.parquet"], "seconds": 2.0, "started": "2026-05-21T11"},
    RUN,
    RUN | {"seconds": 30.0},
]


def scores(models=("SmolLM2-135M",), methods=METHODS, seeds=(0,), nouns=20) -> pd.DataFrame:
    """Tidy scores of all benchmarks."""
    generator, other = np.random.default_rng(7), np.random.default_rng(8)
    rows = []
    for place, model in enumerate(models):
        for method in methods:
            for seed in seeds:
                head = (model, method, seed)
                rows += _structured(head, place, generator) + _open_ended(head, nouns, generator)
                if method in PROMPTING:
                    continue
                rows += _mcq(head, generator) + _novelty(head, other)
                if method != "base" or seed == seeds[0]:  # base's are deterministic and measured once
                    rows += _tinybenchmarks(head, place, other) + _paloma(head, place)
    columns = ["model", "method", "seed", "benchmark", "split", "item", "metric", "value"]
    return pd.DataFrame(rows, columns=columns)


def _structured(head, place, generator) -> list[tuple]:
    level = LEVELS.get(head[1], TUNED)
    rows = []
    for prompt in PROMPTS:
        noise = np.exp(generator.normal(0, 0.35, len(NAMES)) - 0.05 * place)
        found = {name: value * factor for name, value, factor in zip(NAMES, level, noise, strict=True)}
        found["valid_rate"], found["support_probability"] = (
            min(1, found["valid_rate"]),
            min(1, found["support_probability"]),
        )
        found |= {"law_pit_w1_low": 0.9 * found["pit_w1"], "law_pit_w1_high": 1.05 * found["pit_w1"]}
        found |= {"n": 1000.0, "tokens_per_draw": TOKENS.get(head[1], 5.0), **FLOORS}
        rows += [(*head, "structured", prompt.split, prompt.prompt_id, name, value) for name, value in found.items()]
    return rows


def _open_ended(head, nouns, generator) -> list[tuple]:
    size, unique = (3, 0.1) if head[1] == "base" else (60, 0.5)
    rows = []
    for item in (["city", "weekday"] + [f"noun{i}" for i in range(nouns - 2)])[:nouns]:
        found = {
            "n": 100.0,
            "support_size_0.5": 1.0,
            "support_size_0.9": float(1 + generator.poisson(size)),
            "unique_rate": float(np.clip(unique + generator.normal(0, 0.05), 0.01, 1)),
            "empty_rate": 0.01,
            "tokens_per_draw": TOKENS.get(head[1], 5.0),
            "top_share": 0.8 if head[1] == "base" else 0.4,
            "top4_share": 0.9 if head[1] == "base" else 0.6,
        }
        found |= {"wednesday_share": 0.8 if head[1] == "base" else 0.4} if item == "weekday" else {}
        rows += [(*head, "open_ended", "open_ended", item, name, value) for name, value in found.items()]
    return rows


def _mcq(head, generator) -> list[tuple]:
    shares = generator.dirichlet([2, 5, 2, 1] if head[1] == "base" else [9, 9, 9, 9])
    parse = 0.8
    found = {"n": 200.0, "num_parseable": 160.0, "parse_rate": parse, "tv_uniform_floor": 0.035, "tv_detectable": 0.1,
             "tv_uniform_parsed_only_floor": 0.04}  # fmt: skip
    found |= {f"freq_{letter}": share for letter, share in zip("abcd", shares, strict=True)}
    found["chi_square_pvalue"] = float(stats.chisquare(160 * shares).pvalue)
    found["tv_uniform_parsed_only"] = float(np.abs(shares - 0.25).sum() / 2)
    found["tv_uniform"] = float((np.abs(parse * shares - 0.25).sum() + 1 - parse) / 2)
    return [(*head, "mcq", "mcq", "all", name, value) for name, value in found.items()]


def _novelty(head, generator, prompts=20) -> list[tuple]:
    level = {"base": 3.0, "soft": 4.0}.get(head[1], 3.5)
    rows = []
    for i in range(prompts):
        split = "curated" if i < prompts // 2 else "wildchat"
        found = {"distinct_v1.0": 1 + generator.binomial(9, level / 10), "utility_v1.0": level + generator.normal(0, 1)}
        found["reward_v1.0"] = 6.0
        rows += [(*head, "novelty", split, f"{split}-{i}", name, float(value)) for name, value in found.items()]
    return rows


def _tinybenchmarks(head, place, generator, items=50) -> list[tuple]:
    """Every item has the same difficulty for all methods, so that pairs agree more often than chance."""
    rows = []
    for task, level in TASKS.items():
        level += 0.01 * place + (0 if head[1] == "base" else -0.15 if task.startswith("gsm8k") else 0.02)
        ease = np.random.default_rng(3).random(items)
        right = (0.8 * ease + 0.2 * generator.random(items) > 1 - level).astype(float)
        if task == "truthfulqa":
            right = np.clip(0.3 * ease + level - 0.15 + generator.normal(0, 0.05, items), 0, 1)
        rows += [(*head, "tinybenchmarks", task, str(i), "correct", float(value)) for i, value in enumerate(right)]
        whole = {"mean": right.mean(), "p_irt": right.mean() - 0.01}
        whole |= {} if task == "gsm8k_flexible" else {"gp_irt": right.mean() + 0.01}
        rows += [(*head, "tinybenchmarks", task, "all", name, float(value)) for name, value in whole.items()]
    return rows


def _paloma(head, place, blocks=12) -> list[tuple]:
    rows, total = [], np.zeros(3)
    factor = {"base": 1.0, "soft": 0.97}.get(head[1], 1.01) * (1 + 0.001 * head[2])
    for name, perplexity in SLICES.items():
        generator = np.random.default_rng([5, place])  # base's own documents, so that methods are paired
        tokens = generator.integers(500, 1500, blocks)
        nats = tokens * (np.log(perplexity * factor) - 0.03 * place + generator.normal(0, 0.2, blocks))
        sums = {"nats": nats, "tokens": tokens, "bytes": 4 * tokens}
        for block in range(blocks):
            item = f"block-{block:02d}"
            rows += [(*head, "paloma", name, item, metric, float(sums[metric][block])) for metric in sums]
        whole = np.array([values.sum() for values in sums.values()])
        total += whole
        rows += _figures(head, name, whole)
    return rows + _figures(head, "all", total)


def _figures(head, split, sums) -> list[tuple]:
    nats, tokens, size = map(float, sums)
    found = {
        "perplexity": np.exp(nats / tokens),
        "bits_per_byte": nats / np.log(2) / size,
        "tokens": tokens,
        "bytes": size,
    }
    return [(*head, "paloma", split, "all", name, float(value)) for name, value in found.items()]


def draws(models=("SmolLM2-135M",), methods=METHODS, seeds=(0,), count=200) -> pd.DataFrame:
    """Draws of the structured and open-ended benchmarks: base mostly invalid and peaked, tuned close to the target."""
    generator = np.random.default_rng(11)
    rows = []
    for model in models:
        for method in methods:
            for seed in seeds:
                for prompt in PROMPTS:
                    texts = _numbers(prompt, method, count, generator)
                    rows += [(model, method, seed, "structured", prompt.prompt_id, i, t) for i, t in enumerate(texts)]
                for noun, answers in (("city", CITIES), ("weekday", WEEKDAYS)):
                    weight = (0.3 if method == "base" else 0.8) ** np.arange(len(answers))
                    texts = generator.choice(answers, count, p=weight / weight.sum())
                    rows += [(model, method, seed, "open_ended", noun, i, t) for i, t in enumerate(texts)]
    columns = ["model", "method", "seed", "benchmark", "prompt_id", "draw", "text"]
    return pd.DataFrame(rows, columns=columns).assign(tokens=4, finished=True)


def _numbers(prompt, method, count, generator) -> list[str]:
    family = registry()[prompt.family]
    numbers = family.frozen(prompt.parameters).ppf(generator.random(count))
    if method == "base":
        numbers = np.full(count, family.frozen(prompt.parameters).ppf(0.5))
    texts = [str(int(x)) if family.discrete else f"{x:.2f}" for x in numbers]
    bad = generator.random(count) < (0.9 if method == "base" else 0.04)
    return ["a number" if wrong else text for wrong, text in zip(bad, texts, strict=True)]


def tokenize(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """One token per character."""
    return np.array([ord(character) for text in texts for character in text]), np.array([len(text) for text in texts])


def decode(tokens: list[int]) -> str:
    return "".join(map(chr, tokens))


TERMINATOR = 0


def curves(models=("SmolLM2-135M",), methods=METHODS, seeds=(0,)) -> pd.DataFrame:
    """Curves of every prompt: base hardly answers, the others nearly follow the target."""
    known, generator, rows = registry(), np.random.default_rng(13), []
    for prompt in PROMPTS:
        family, parameters = known.parse(prompt.prompt_id)
        frozen = family.frozen(parameters)
        points = curve_points(frozen)
        texts = [f"{point:.2f}" for point in points[:: len(points) // 5 + 1]]
        for head in itertools.product(models, methods, seeds):
            valid = LEVELS.get(head[1], TUNED)[0]
            law = valid * frozen.cdf(points) ** generator.uniform(0.8, 1.2)
            ends = (np.clip(law + step, 0, valid) for step in (-0.01, 0.01))
            rows.append((prompt.prompt_id, *head, law, texts, *ends))
    return pd.DataFrame(rows, columns=["prompt_id", "model", "method", "seed", "drawn", "samples", "low", "high"])
