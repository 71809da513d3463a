"""Bounds on the law of a model's answers to one prompt, and on its distances to the target, without draws.

The beginning of a number says in which interval it will lie. So the tree of the model's tokens is expanded where most
is left open (answer_tree.py), and what is left bounds the law from both sides.

How sure the bounds are. Digits can still go astray: text after them makes the answer invalid, an exponent moves it
anywhere. So the beginning of a number never proves that the answer is valid; only its end does. `stray` is the share
of such mass (plain and doomed in the tree, together) that may go astray. At 1 nothing is assumed: the bounds are
certain, and a larger budget never widens them, but they stay wide while much mass is unresolved, as with many decimals.
Below 1 they hold if no more than that share goes astray. It can be measured: `probes` of the unresolved leaves are
followed to their ends (astray.py), and `stray` is what they find, three standard errors added, and 3/probes: a share
of this size of all leaves is missed by all probes in one case of twenty.
Always assumed, unless `thinking`: no closing thinking tag follows a text that is no number (see numbers.py).

Distances count validity inside, as stats.pit_w1 does: with G(x) = P(valid, value <= x), v = P(valid) and the target F,

    distance = N(G - vF) + c (1 - v),

where N is the integral (pit_w1: c = 1/2) or the supremum (ks: c = 1) of the absolute value over the target's own scale
u = F(x), a discrete jump spread evenly. This is v times the distance of the law given valid, and for an invalid answer
c, the greatest distance. N is a seminorm, and mass m at any one place has N <= c m. Hence
  (a) making mass m invalid raises the distance by at least 0 and at most 2 c m;
  (b) moving mass m elsewhere changes it by at most 2 c m.
From (a): the distance with all unresolved mass invalid is the greatest, and the least is at most 2 c times that mass
below it. From (a) and (b): if mass s goes astray, the distance differs by at most 2 c s from the one in which all plain
mass ends in its intervals; loose mass, taken as invalid there, can only lower it. Those intervals give L <= G <= U with
v known, and N lies between the N of the distance of vF to [L, U] and that of max(vF - L, U - vF), everywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from cft import CftError
from cft.answer_tree import DOOMED, LOOSE, PLAIN, AnswerTree
from cft.astray import stray_share
from cft.envelope import Deviation, Range, cumulative, deviation
from cft.numbers import token_grammar
from cft.prefix import Prefixes
from cft.target import Target

NEGLIGIBLE = 1e-6  # of the gap


@dataclass(frozen=True)
class Bounds:
    """What is known of the law of a model's answers; masses are probabilities and sum to one.

    values, masses    [atoms] valid answers, a value once for every text that states it
    low, high, mass   [intervals] plain mass, and where its numbers lie unless they go astray
    doomed            mass of begun numbers that would be invalid
    loose             mass of which nothing is known
    invalid           mass known to be invalid
    stray             the share of plain and doomed mass, together, that may go astray
    gap               mass left open, plain mass by its interval's share of the target: pit_w1 is known to within three
                      times this, at stray 0 and 1 to within this
    nodes             beginnings whose next token was computed
    forward_tokens    tokens computed after the prompt
    """

    values: np.ndarray
    masses: np.ndarray
    low: np.ndarray
    high: np.ndarray
    mass: np.ndarray
    doomed: float
    loose: float
    invalid: float
    stray: float
    gap: float
    nodes: int
    forward_tokens: int

    @property
    def unresolved(self) -> float:
        """The probability of all answers that are left open."""
        return float(self.mass.sum()) + self.doomed + self.loose

    @property
    def astray(self) -> float:
        """The mass that may go astray."""
        return self.stray * (float(self.mass.sum()) + self.doomed)

    @property
    def valid(self) -> Range:
        """The probability of a valid answer."""
        resolved, plain = float(self.masses.sum()), float(self.mass.sum())
        low = resolved + max(0.0, plain - self.astray)
        return Range(low, min(1.0, resolved + plain + self.loose + min(self.astray, self.doomed)))

    def cdf(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """[n] lower and [n] upper bound of P(value <= point | valid) at `points` [n].

        Lower: mass that may lie above does, stray mass of below too; upper: the reverse. No mass below and none above
        leaves 0 to 1.
        """
        below = cumulative(self.values, self.masses, points)
        above = np.maximum(0, self.masses.sum() - below)
        surely_below = cumulative(self.high, self.mass, points)
        surely_above = cumulative(-self.low, self.mass, -np.nextafter(points, np.inf))
        between = np.maximum(0, self.mass.sum() - surely_below - surely_above)
        stray = self.astray
        free = between + self.loose + min(stray, self.doomed)
        least = below + np.maximum(0, surely_below - stray)
        rest = above + surely_above + free + np.minimum(stray, surely_below)
        most = below + surely_below + free + np.minimum(stray, surely_above)
        further = above + np.maximum(0, surely_above - stray)
        return _share(least, rest, 0.0), _share(most, further, 1.0)

    def ks(self, frozen: Any) -> Range:
        """The Kolmogorov-Smirnov distance to a SciPy distribution, an invalid answer counting 1."""
        return self._distance(1.0, *(found.supremum for found in self._deviations(frozen)))

    def pit_w1(self, frozen: Any) -> Range:
        """What stats.pit_w1 tends to with the number of draws."""
        return self._distance(0.5, *(found.integral for found in self._deviations(frozen)))

    def _deviations(self, frozen: Any) -> tuple[Deviation, Deviation]:
        """N(G - vF) with all unresolved mass invalid, and with all plain mass in its intervals."""
        nothing = np.zeros(0)
        return (
            deviation(frozen, self.values, self.masses, nothing, nothing, nothing),
            deviation(frozen, self.values, self.masses, self.low, self.high, self.mass),
        )

    def _distance(self, cost: float, resolved: Range, plain: Range) -> Range:
        valid = float(self.masses.sum())
        stray = self.astray
        worst = resolved.high + cost * (1 - valid)
        invalid = cost * (1 - valid - float(self.mass.sum()))
        low = max(worst - 2 * cost * self.unresolved, plain.low + invalid - 2 * cost * (stray + self.loose))
        return Range(max(cost * self.invalid, low), min(worst, plain.high + invalid + 2 * cost * stray))

    def w1(self, frozen: Any, between: tuple[float, float]) -> Range:
        """Wasserstein-1 distance of the law given valid to a SciPy distribution, both clipped to a finite range.

        In the target's units. Without clipping the low end still holds, and nothing holds above: a digit more can make
        any number ten times as large. In each cell of a grid that holds all jumps, F and the law are between their
        values at its ends, so the sums are bounds too; F's part in what they are apart is below 1/20,000 of the range.
        """
        if isinstance(frozen.dist, stats.rv_discrete):
            grid = np.arange(np.ceil(between[0]), np.floor(between[1]) + 1)
        else:
            grid = np.concatenate([np.linspace(*between, 20_001), frozen.ppf(np.arange(1, 1000) / 1000)])
        points = np.concatenate([between, grid, self.values, self.low, self.high])
        points = np.unique(np.clip(points, *between))
        lower, upper = self.cdf(points[:-1])
        first = frozen.cdf(points)
        last = first[:-1] if isinstance(frozen.dist, stats.rv_discrete) else first[1:]
        width, first = np.diff(points), first[:-1]
        low = width @ np.maximum(0, np.maximum(lower - last, first - upper))
        return Range(float(low), float(width @ np.maximum(upper - first, last - lower)))

    def total_variation(self, target: Target) -> Range:
        """Total variation distance to a finite target: an answer counts for the value of its support that is nearest.

        1 - sum of min(p, q) over the values, the target's p, the law's q; answers that are invalid are in no q. Bounds
        of q: with intervals that lie at one value and without, or with all that touch it.
        """
        values = np.array(target.values, dtype=float)
        edges = (values[1:] + values[:-1]) / 2
        law = np.bincount(np.searchsorted(edges, self.values), self.masses, len(values))
        first, last = np.searchsorted(edges, self.low), np.searchsorted(edges, self.high)
        inside = law + np.bincount(first[first == last], self.mass[first == last], len(values))
        touching = np.bincount(first, self.mass, len(values) + 1) - np.bincount(last + 1, self.mass, len(values) + 1)
        common, at_one, at_most = (
            float(np.minimum(target.probabilities, q).sum()) for q in (law, inside, law + touching.cumsum()[:-1])
        )
        stray = self.astray
        astride = float(self.mass[first < last].sum())
        most = min(common + self.unresolved, min(at_most, at_one + astride) + stray + self.loose, 1 - self.invalid)
        return Range(max(0.0, 1 - most), 1 - max(common, at_one - stray))


def _share(part: np.ndarray, rest: np.ndarray, undefined: float) -> np.ndarray:
    total = part + rest
    return np.divide(part, total, out=np.full(len(total), undefined), where=total > 0)


def bound_law(
    start: Prefixes,
    tokenizer: Any,
    ends: Sequence[int],
    frozen: Any,
    rows: int,
    gap: float = 0.005,
    nodes: int = 4000,
    max_new_tokens: int = 32,
    stray: float = 1.0,
    probes: int = 0,
    seed: int = 0,
    temperature: float = 1.0,
    thinking: bool = False,
) -> Bounds:
    """Bound the law of the answers after `start` (one row: the prompt) against a SciPy distribution.

    ends              the tokens that end an answer
    rows              beginnings that are computed at a time
    gap, nodes        where to stop: at this Bounds.gap, or after so many beginnings
    max_new_tokens    where an answer is cut, and judged as it stands
    stray, thinking   what is assumed, see above
    probes, seed      how many leaves say what `stray` is in the end; before, it is what the expansion assumes
    temperature       divides the logits
    Raises CftError when a setting is out of range, or the tokenizer's texts cannot be read token by token.
    """
    if len(start.logits) != 1 or not 0 <= stray <= 1 or gap < 0 or min(rows, nodes, max_new_tokens) < 1:
        raise CftError(
            "bounds need one prompt, a stray share from 0 to 1, a gap of at least 0, and counts of at least 1"
        )
    grammar = token_grammar(tokenizer, start.logits.shape[-1])
    tree = AnswerTree(grammar, list(ends), frozen, stray, max_new_tokens, temperature, thinking, NEGLIGIBLE * gap)
    tree.plant(start)
    more = True
    while more and tree.gap > gap and len(tree.nodes) < nodes:
        more = tree.grow(start, min(rows, nodes - len(tree.nodes)))
    if probes:
        share, error = stray_share(tree, start, probes, rows, np.random.default_rng(seed))
        stray = min(1.0, share + 3 * error + 3 / probes)
    return _bounds(tree, stray)


def _bounds(tree: AnswerTree, stray: float) -> Bounds:
    kind, mass = tree.leaves["kind"], tree.leaves["mass"]
    plain = tree.leaves[kind == PLAIN]
    values, masses = np.array(tree.atoms, dtype=float).reshape(-1, 2).T
    return Bounds(
        values=values,
        masses=masses,
        low=plain["low"],
        high=plain["high"],
        mass=plain["mass"],
        doomed=float(mass[kind == DOOMED].sum()),
        loose=float(mass[kind == LOOSE].sum()) + tree.sealed,
        invalid=tree.invalid,
        stray=stray,
        gap=tree.gap,
        nodes=len(tree.nodes),
        forward_tokens=tree.forward_tokens,
    )
