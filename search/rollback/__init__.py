"""The dynamic rollback optimizer: a callback, its policies, and the schedules that it writes."""

from search.rollback.optimizer import RollbackOptimizer
from search.rollback.policy import Fault, Move, Policy, Retry

__all__ = ["Fault", "Move", "Policy", "Retry", "RollbackOptimizer"]
