"""Answers to one prompt sorted into classes that do the same for the reader (arXiv 2605.11845).

Source: NoveltyBench v1.0 (arXiv 2504.05228), src/partition.py of novelty-bench/novelty-bench; golden/novelty.jsonl.
"""

from collections.abc import Callable

SHORT = 5  # words
Pair = tuple[str, str]


def same_words(first: str, second: str) -> bool | None:
    """Whether two short answers share so many different words that twice their number reaches the longer one's length.

    None when one of them has more than five words: then a classifier decides.
    """
    words = [answer.lower().split() for answer in (first, second)]
    longest = max(map(len, words))
    if longest > SHORT:
        return None
    return 2 * len(set(words[0]) & set(words[1])) >= longest


def partition(prompts: list[list[str]], equivalent: Callable[[list[Pair]], list[bool]]) -> list[list[int]]:
    """The class of every answer to every prompt, numbered by first appearance: an answer joins the first class whose
    first member it equals, or opens one.

    prompts       the answers to each prompt, in order
    equivalent    decides the pairs (first member, later answer) that the rule for short answers leaves open

    Each round opens the next class of every prompt and compares its first member with the answers that have none yet.
    These are the comparisons of the sequential rule and no others, those of all prompts together.
    """
    labels = [[-1] * len(answers) for answers in prompts]
    rest = [list(range(len(answers))) for answers in prompts]
    number = 0
    while any(rest):
        open_pairs: list[Pair] = []
        places: list[tuple[int, int]] = []
        for prompt, answers in enumerate(prompts):
            if not rest[prompt]:
                continue
            first, *others = rest[prompt]
            labels[prompt][first] = number
            for other in others:
                same = same_words(answers[first], answers[other])
                if same is None:
                    open_pairs.append((answers[first], answers[other]))
                    places.append((prompt, other))
                elif same:
                    labels[prompt][other] = number
        for (prompt, other), same in zip(places, equivalent(open_pairs), strict=True):
            if same:
                labels[prompt][other] = number
        rest = [[index for index in indices if labels[prompt][index] < 0] for prompt, indices in enumerate(rest)]
        number += 1
    return labels
