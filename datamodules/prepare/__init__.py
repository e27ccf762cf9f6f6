"""Converts raw data sets to clean domain data: domains, duplicates, benchmarks, solutions, splits."""

from vibethinker.datamodules.prepare.pipeline import Prepared, prepare
from vibethinker.datamodules.prepare.settings import Benchmark, Settings, Source

__all__ = ["Benchmark", "Prepared", "Settings", "Source", "prepare"]
