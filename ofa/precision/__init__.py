"""INT8 or fp32 for each block: the space with precision, its latency, true accuracies, and the search over both."""

from ofa.precision.mixed_latency import BoundaryCost, MixedLatency
from ofa.precision.mixed_space import Per, place_of, split_precision, standing_slots, with_precision

__all__ = ["BoundaryCost", "MixedLatency", "Per", "place_of", "split_precision", "standing_slots", "with_precision"]
