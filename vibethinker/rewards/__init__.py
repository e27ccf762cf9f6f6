"""Verifiers: `reward(problems, completions)` gives outcomes in [0, 1]; and what shapes the reward beside them."""

from vibethinker.rewards.base import Outcome, Reward, Verifier, examine
from vibethinker.rewards.code import CodeReward
from vibethinker.rewards.composite import CompositeReward, DispatchReward, Part
from vibethinker.rewards.format import FormatReward
from vibethinker.rewards.math import MathReward

__all__ = [
    "CodeReward",
    "CompositeReward",
    "DispatchReward",
    "FormatReward",
    "MathReward",
    "Outcome",
    "Part",
    "Reward",
    "Verifier",
    "examine",
]
