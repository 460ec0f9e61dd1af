"""Which tests need the engine: the light ones run where it is not installed."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("flwr") else ["test_aggregation.py", "test_bounds.py"]
