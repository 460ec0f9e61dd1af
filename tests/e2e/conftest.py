"""One tiny teacher for all federations of these tests."""

from tests.support.e2e.tiny_teacher import teacher

__all__ = ["teacher"]
