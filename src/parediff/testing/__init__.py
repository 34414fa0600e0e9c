"""What every method, metric and cost keeps, whoever wrote it: `pytest --pyargs parediff.testing`.

The suites find them by their YAMLs, those of installed packages included; nothing in them names one. `-k half` checks
one of them alone. They run on tiny random models, on a CPU, and fetch nothing.
"""
