"""The parts of `benchmarks/performance.py`, each run in a process of its own."""
