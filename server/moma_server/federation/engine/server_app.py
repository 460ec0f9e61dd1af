"""The ServerApp: one federated run, in a process that SuperLink starts."""

import fcntl
import logging
import time
from logging.handlers import RotatingFileHandler
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from moma_core.errors import FederationError
from moma_core.runtime.canonical_json import parsed_json
from moma_core.runtime.cli import SafeLines
from moma_server.config.federation_plan import RunOrder
from moma_server.federation.engine.control import FlowerNode
from moma_server.federation.engine.grid import FlowerSites
from moma_server.federation.run.run import FederatedRun

_logger = logging.getLogger(__name__)

_LOG_BYTES = 4 << 20

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Runs the order that the run config names."""
    path = Path(str(context.run_config["plan"]))
    _log_to(path.with_name("run.log"))
    try:
        _run_order(grid, RunOrder.model_validate_json(path.read_bytes()))
    except Exception:
        _logger.exception("the run could not go on")  # Flower throws its output away
        raise


def _run_order(grid: Grid, order: RunOrder) -> None:
    # a ServerApp that outlives its SuperLink must not write beside the next one
    with order.records.with_suffix(".lock").open("w") as lock:
        _lock(lock.fileno())
        sites = FlowerSites(
            grid,
            nodes=lambda: _nodes(order.nodes),
            max_weights_bytes=order.plan.report_weights_bytes,
        )
        FederatedRun(
            order,
            sites=sites,
            registered=lambda: sorted(_nodes(order.nodes)),
            clock=time,
        ).run()


def _log_to(path: Path) -> None:
    handler = RotatingFileHandler(path, maxBytes=_LOG_BYTES, backupCount=1)
    handler.setFormatter(SafeLines("%(asctime)s %(levelname)s %(message)s"))
    ours = logging.getLogger("moma_server")
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)


def _lock(lock: int) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise FederationError("another run writes these records") from error


def _nodes(path: Path) -> dict[str, FlowerNode]:
    nodes = parsed_json(path.read_bytes())
    return {str(site): FlowerNode(**node) for site, node in nodes.items()}
