"""The random supernet that deployment is tested with."""

from tests.deploy.conftest import evaluator

__all__ = ["evaluator"]
