"""The parts of benchmarks/bench.py: what is measured, by which processes, and how it is written down."""
