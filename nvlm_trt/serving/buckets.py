"""Bucket bounds of the histograms, the same on every metrics page, so that one dashboard reads them all.

Each spans both the small model on a laptop and the full one under load.
"""

from __future__ import annotations

__all__ = ["FIRST_TOKEN_S", "PER_TOKEN_S", "TILES", "WHOLE_S"]

FIRST_TOKEN_S = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.5, 5, 10, 20, 40)
PER_TOKEN_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28)
WHOLE_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160)
# None, one, a whole picture of the release (six and a thumbnail), and several of these.
TILES = (0, 1, 4, 7, 14, 28, 56, 112)
