"""CIDEr-D, the headline of the captioning task (Vedantam, Zitnick and Parikh, 2015, section 4 and its -D variant).

A caption is a vector of counts of its runs of one to four words, each weighted by the logarithm of how few pictures'
references hold it. A candidate's likeness to a reference is the cosine of the two, with the candidate's weights cut to
the reference's, and less by a Gaussian in the difference of lengths (sigma 6). The mean over lengths of runs and over
references, times 10. A corpus of one picture scores 0: every run is in all of it.

Words are split by a rule of our own. The public tools call Stanford's Penn Treebank tokenizer, a Java program; both
lower-case, drop punctuation and split "don't" into "do n't" and "dog's" into "dog 's". They differ on abbreviations,
hyphens ("t-shirt" stays one word in both) and symbols, rare in captions. A figure that is to stand beside a published
one in its second decimal needs theirs.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

__all__ = ["cider_d", "words"]

_MAX_RUN = 4
_SIGMA = 6.0
_WORD = re.compile(r"n't\b|'(?:s|re|ve|ll|d|m)\b|\d+(?:[.,]\d+)*|\w+?(?=n't\b)|\w+(?:-\w+)*")

Runs = Counter[tuple[str, ...]]


def words(caption: str) -> list[str]:
    return _WORD.findall(caption.lower())


def cider_d(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """One figure from 0 to 10 per picture; the corpus's is their mean. ``references`` are one list a picture."""
    counted = [[_runs(reference) for reference in several] for several in references]
    seen = Counter(run for several in counted for run in set().union(*several))
    log_pictures = math.log(max(len(counted), 1))
    weights = {run: log_pictures - math.log(count) for run, count in seen.items()}
    scores = []
    for candidate, several in zip(candidates, counted, strict=True):
        mine = _Vector(_runs(candidate), weights, log_pictures)
        likeness = sum(mine.likeness(_Vector(runs, weights, log_pictures)) for runs in several)
        scores.append(10 * likeness / len(several) if several else 0.0)
    return scores


def _runs(caption: str) -> Runs:
    split = words(caption)
    return Counter(
        tuple(split[at : at + length]) for length in range(1, _MAX_RUN + 1) for at in range(len(split) - length + 1)
    )


class _Vector:
    """The weighted counts of one caption, the norm for each length of runs, and the words in it."""

    def __init__(self, runs: Runs, weights: Mapping[tuple[str, ...], float], unseen: float) -> None:
        self.weighted = {run: count * weights.get(run, unseen) for run, count in runs.items()}
        self.norms = [0.0] * _MAX_RUN
        for run, weight in self.weighted.items():
            self.norms[len(run) - 1] += weight**2
        self.norms = [math.sqrt(norm) for norm in self.norms]
        # As the public implementation counts a caption's length: by its pairs of words.
        self.length = sum(count for run, count in runs.items() if len(run) == 2)

    def likeness(self, reference: _Vector) -> float:
        products = [0.0] * _MAX_RUN
        for run, weight in self.weighted.items():
            wanted = reference.weighted.get(run, 0.0)
            products[len(run) - 1] += min(weight, wanted) * wanted
        cosines = (
            product / (mine * theirs) if mine and theirs else 0.0
            for product, mine, theirs in zip(products, self.norms, reference.norms, strict=True)
        )
        difference = self.length - reference.length
        return sum(cosines) / _MAX_RUN * math.exp(-(difference**2) / (2 * _SIGMA**2))
