"""How fast the driver of a search is, as tests/benchmarks/bench_driver.py measured it.

A trial is one of the last of 2,000, without its two results: it takes longer the more there were.
"""

SECONDS_PER_RESULT = 0.003
SECONDS_PER_TRIAL = 0.05
SOURCE = "measured with 2,000 trials, tests/benchmarks/reports"
