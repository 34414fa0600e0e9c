"""parediff: compress and accelerate diffusion models, one honest point on a Pareto curve per run."""

__version__ = "0.1.0"
