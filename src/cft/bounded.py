"""What the bounds on a model's law say, as columns of law.parquet."""

from dataclasses import replace
from typing import Any, NamedTuple
from zlib import crc32

from cft.benchmark_settings import StructuredBenchmark
from cft.bounds import bound_law
from cft.distributions import Registry
from cft.prefix import Prefixes
from cft.stats import curve_points
from cft.target import Target, clip_range

PROBES = 128  # leaves that say how much of what is unresolved goes astray


class Limits(NamedTuple):
    """Where bounds stop (gap, nodes, max_new_tokens), and how they are computed; see bound_law."""

    gap: float
    nodes: int
    max_new_tokens: int
    rows: int
    seed: int
    temperature: float = 1.0


def bounded(
    start: Prefixes,
    tokenizer: Any,
    ends: list[int],
    prompt_id: str,
    target: Target,
    registry: Registry,
    settings: StructuredBenchmark,
    rows: int,
    temperature: float,
) -> dict[str, Any]:
    """Columns of one prompt; `start` holds it as its only row, and `rows` beginnings are computed at a time.

    `ends` are the tokens that end an answer, each once: those of draws (chat.stops).

    law_valid, law_invalid, law_ks, law_pit_w1, law_w1 (target clipped to the range that it covers, in its units) and
    law_tv (on the lattice of `target`), each with _low and _high: between these if no more than law_stray of what is
    unresolved goes astray, a share that is measured. law_pit_w1_certain: however much does. points [n], and cdf_low and
    cdf_high there.
    """
    family, parameters = registry.parse(prompt_id)
    frozen = family.frozen(parameters)
    limits = Limits(settings.gap, settings.nodes, settings.max_new_tokens, rows, crc32(prompt_id.encode()), temperature)
    return columns(start, tokenizer, ends, frozen, target, registry.quantiles, limits)


def columns(
    start: Prefixes,
    tokenizer: Any,
    ends: list[int],
    frozen: Any,
    target: Target,
    quantiles: tuple[float, float],
    limits: Limits,
) -> dict[str, Any]:
    """The same for any SciPy distribution; `target` is its lattice, cut at these quantiles."""
    found = bound_law(
        start,
        tokenizer,
        ends,
        frozen,
        limits.rows,
        gap=limits.gap,
        nodes=limits.nodes,
        max_new_tokens=limits.max_new_tokens,
        stray=0,
        probes=PROBES,
        seed=limits.seed,
        temperature=limits.temperature,
    )
    between = clip_range(frozen, quantiles)
    ranges = {
        "law_valid": found.valid,
        "law_invalid": found.valid._replace(low=1 - found.valid.high, high=1 - found.valid.low),
        "law_ks": found.ks(frozen),
        "law_pit_w1": found.pit_w1(frozen),
        "law_w1": found.w1(frozen, between),
        "law_tv": found.total_variation(target),
        "law_pit_w1_certain": replace(found, stray=1.0).pit_w1(frozen),
    }
    points = curve_points(frozen)
    low, high = found.cdf(points)
    return {
        **{f"{name}_{side}": float(value) for name, both in ranges.items() for side, value in both._asdict().items()},
        "law_stray": found.stray,
        "law_unresolved": found.unresolved,
        "law_gap": found.gap,
        "law_nodes": found.nodes,
        "law_forward_tokens": found.forward_tokens,
        "points": points,
        "cdf_low": low,
        "cdf_high": high,
    }
