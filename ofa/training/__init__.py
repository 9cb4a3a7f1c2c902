"""Training one set of weights for all subnets, and judging the subnets."""

from ofa.training.bn_calibration import calibrate_bn
from ofa.training.evaluation import SubnetEvaluator, judge
from ofa.training.memory import NotEnoughMemoryError
from ofa.training.recipe import Recipe, list_recipes, load_recipe
from ofa.training.run import Run, RunError, build_supernet
from ofa.training.strategy import Strategy
from ofa.training.trainer import DivergedError, StoppedError, train

__all__ = [
    "DivergedError",
    "NotEnoughMemoryError",
    "Recipe",
    "Run",
    "RunError",
    "StoppedError",
    "Strategy",
    "SubnetEvaluator",
    "build_supernet",
    "calibrate_bn",
    "judge",
    "list_recipes",
    "load_recipe",
    "train",
]
