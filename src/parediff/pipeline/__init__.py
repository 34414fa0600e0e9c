"""The line that every run takes: load, baseline, compress, evaluate, cost, record."""
