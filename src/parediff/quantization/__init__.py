"""Grids, quantisers, layers and scale search, shared by every method that lowers bits."""
