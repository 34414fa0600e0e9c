"""What a YAML may compute: `${sum:…}` and `${product:…}`, wherever a config is read."""

from __future__ import annotations

import math

from omegaconf import OmegaConf

OmegaConf.register_new_resolver("sum", lambda *terms: sum(terms), replace=True)
OmegaConf.register_new_resolver("product", lambda *factors: math.prod(factors), replace=True)
"""For seed sets: `first_seed: ${product:100000,${seed}}`."""
