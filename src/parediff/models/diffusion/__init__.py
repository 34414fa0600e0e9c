"""Diffusion pipelines behind one door."""
