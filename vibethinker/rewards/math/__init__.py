"""Mathematical equivalence of final answers."""

from vibethinker.rewards.math.verifier import MathReward, is_equivalent

__all__ = ["MathReward", "is_equivalent"]
