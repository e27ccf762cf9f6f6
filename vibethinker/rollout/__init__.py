"""In-process sampling."""

from vibethinker.rollout.engine import RolloutEngine, Rollouts
from vibethinker.rollout.sampling_params import Sampling

__all__ = ["RolloutEngine", "Rollouts", "Sampling"]
