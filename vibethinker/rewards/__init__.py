"""Verifiers: `reward(problems, completions)` gives outcomes in [0, 1]."""

from vibethinker.rewards.base import Reward
from vibethinker.rewards.code import CodeReward
from vibethinker.rewards.math import MathReward

__all__ = ["CodeReward", "MathReward", "Reward"]
