"""Rewards: `reward(problems, completions)` gives scores in [0, 1], `reward.grade` the outcomes behind them."""

from vibethinker.rewards.base import Outcome, Reward, Verifier
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
]
