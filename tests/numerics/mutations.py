"""The table of mutations: what verification must catch, all of it.

docs/numerics.md shows it with what was measured.
"""

from __future__ import annotations

from mutations_of_builds import LIBRARIES, WEIGHTS
from mutations_of_models import GRAPHS, MODELING

MUTATIONS = (*MODELING, *GRAPHS, *LIBRARIES, *WEIGHTS)
