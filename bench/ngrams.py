"""Characters by those before them: the n-gram baseline of a language model."""

from __future__ import annotations

import math
from collections import Counter, defaultdict


class NGrams:
    """p(c | h) of the n - 1 characters h before c, backing off to shorter ones by absolute discounting.

    p_n(c | h) = max(count(h c) - d, 0) / count(h) + d kinds(h) / count(h) p_{n-1}(c | h'), with kinds(h) the number of
    different characters behind h, and h' without its first one; where h was not seen, p_{n-1}; p_0 is uniform.

    Source: Ney, Essen & Kneser, "On structuring probabilistic dependences in stochastic language modelling", Computer
    Speech & Language 8(1), 1994; interpolated as in Chen & Goodman, 1998, section 2.6.
    """

    def __init__(self, text: str, n: int, discount: float = 0.75) -> None:
        self.n, self.discount, self.size = n, discount, len(set(text))
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)
        for length in range(n):
            for i in range(length, len(text)):
                self.counts[text[i - length : i]][text[i]] += 1

    def p(self, character: str, before: str) -> float:
        found = 1 / self.size
        for length in range(min(len(before), self.n - 1) + 1):
            counts = self.counts.get(before[len(before) - length :])
            if counts is None:
                break
            total = counts.total()
            kept = max(counts[character] - self.discount, 0)
            found = (kept + self.discount * len(counts) * found) / total
        return found

    def nats_per_character(self, text: str) -> float:
        """Of all characters but the first."""
        before = self.n - 1
        found = (math.log(self.p(text[i], text[max(0, i - before) : i])) for i in range(1, len(text)))
        return -sum(found) / (len(text) - 1)
