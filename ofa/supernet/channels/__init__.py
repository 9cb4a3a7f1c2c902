"""Which channels of a model belong together, found by running it once on the meta device."""

from ofa.supernet.channels.groups import ChannelGroup, Site, find_groups
from ofa.supernet.channels.tracer import Call, Step, Trace, sizes_at, trace

__all__ = ["Call", "ChannelGroup", "Site", "Step", "Trace", "find_groups", "sizes_at", "trace"]
