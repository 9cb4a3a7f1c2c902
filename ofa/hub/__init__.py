"""Runs and bundles to and from a hub of models: a repository there holds one of them, and its card as README.md.

Whatever comes from a hub may be anybody's. Only files that a run or bundle can have are fetched, beside the place where
they are to stand, and nothing of them is executed.
"""

from ofa.hub.client import HubError
from ofa.hub.pulling import pull
from ofa.hub.pushing import push
from ofa.hub.transfer import Transfer

__all__ = ["HubError", "Transfer", "pull", "push"]
