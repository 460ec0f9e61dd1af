"""What we use of Flower beyond its public API; these fail first when it moves.

The package is pinned exactly: read the changes, mend `moma_server.federation` and
`moma_client.node_*`, then these tests, then the pin.
"""

import inspect
import io
import zipfile

import flwr
import httpx
import numpy as np
import pytest
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    Metadata,
    RecordDict,
)
from flwr.app.message import make_message
from flwr.cli.build import build_fab_from_files
from flwr.clientapp import ClientApp
from flwr.common.config import get_fab_config, validate_config
from flwr.common.constant import ErrorCode
from flwr.proto.fleet_pb2 import PullMessagesRequest, PushMessagesRequest
from flwr.proto.message_pb2 import Metadata as WireMetadata
from flwr.proto.node_pb2 import Node
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.inflatable import inflatable_utils
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.protobuf.client import ProtobufClient
from flwr.supercore.run import Run, RunNotRunningException
from flwr.supercore.superexec.executor.subprocess_executor import SubprocessExecutor
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.grid import http_grid
from flwr.superlink.routers.fleet.router import router as fleet_router
from flwr.supernode import fleet_http_connection
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from moma_client.federation.client_app import app as client_app
from moma_proto.bundle import bundle_bytes
from moma_server.federation.edge.methods import FLEET_CALLS
from moma_server.federation.engine.server_app import app as server_app


def question() -> Message:
    metadata = Metadata(
        run_id=5,
        message_id="m1",
        src_node_id=1,
        dst_node_id=7,
        reply_to_message_id="",
        group_id="1",
        created_at=0.0,
        ttl=1e12,
        message_type="train",
    )
    return make_message(
        metadata, content=RecordDict({"task": ConfigRecord({"a": "b"})})
    )


def test_the_version_is_the_one_that_was_read() -> None:
    assert flwr.__version__ == "1.41.0"


def test_our_bundle_is_one_that_flower_takes() -> None:
    config = get_fab_config(bundle_bytes())

    valid, errors, _ = validate_config(config, check_module=False)

    assert (valid, errors) == (True, [])
    assert config["tool"]["flwr"]["app"]["config"] == {"plan": ""}


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")
def test_our_bundle_holds_what_flowers_own_build_would_hold() -> None:
    with zipfile.ZipFile(io.BytesIO(bundle_bytes())) as ours:
        text = ours.read("pyproject.toml")
        names = ours.namelist()

    first, _ = build_fab_from_files({"pyproject.toml": text})
    second, _ = build_fab_from_files({"pyproject.toml": text})

    assert first == second
    with zipfile.ZipFile(io.BytesIO(first)) as theirs:
        assert theirs.namelist() == names


def test_the_bundles_components_exist() -> None:
    components = get_fab_config(bundle_bytes())["tool"]["flwr"]["app"]["components"]

    assert components == {
        "serverapp": "moma_server.federation.engine.server_app:app",
        "clientapp": "moma_client.federation.client_app:app",
    }
    assert isinstance(client_app, ClientApp)
    assert isinstance(server_app, ServerApp)


def test_the_fleet_connection_yields_what_our_link_names() -> None:
    signature = inspect.signature(fleet_http_connection.http_request_response)
    source = inspect.getsource(fleet_http_connection.http_request_response)

    assert list(signature.parameters)[:4] == [
        "server_address",
        "insecure",
        "root_certificates",
        "authentication_keys",
    ]
    order = (
        "yield (\n                node.node_id,\n                receive,\n"
        "                send,\n                get_run,\n                get_fab,\n"
        "                pull_object,\n                push_object,\n"
        "                confirm_message_received,\n            )"
    )
    assert order in source


def test_the_edge_passes_calls_that_superlink_has_and_no_others_matter() -> None:
    paths = {route.path.removeprefix("/v1/fleet/") for route in fleet_router.routes}

    assert paths - set(FLEET_CALLS) == {"get-fab", "register-node", "unregister-node"}
    assert paths >= set(FLEET_CALLS)


def test_a_pushed_message_names_its_source_and_its_question() -> None:
    assert {"src_node_id", "reply_to_message_id"} <= {
        field.name for field in WireMetadata.DESCRIPTOR.fields
    }
    assert {"node", "messages_list", "message_object_trees"} <= {
        field.name for field in PushMessagesRequest.DESCRIPTOR.fields
    }


def test_a_reply_is_bound_to_its_question() -> None:
    reply = Message(RecordDict({"report": ConfigRecord({})}), reply_to=question())

    assert reply.metadata.reply_to_message_id == "m1"
    assert reply.metadata.src_node_id == 7
    assert reply.metadata.dst_node_id == 1
    assert reply.metadata.run_id == 5


def test_an_error_reply_carries_its_code_and_reason() -> None:
    error = Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, "a fixed text")

    reply = Message(error, reply_to=question())

    assert reply.has_error()
    assert (reply.error.code, reply.error.reason) == (2, "a fixed text")


def test_the_error_codes_are_those_that_rounds_know() -> None:
    assert ErrorCode.CLIENT_APP_RAISED_EXCEPTION == 2
    assert ErrorCode.MESSAGE_UNAVAILABLE == 3
    assert ErrorCode.REPLY_MESSAGE_UNAVAILABLE == 4
    assert ErrorCode.NODE_UNAVAILABLE == 5
    assert ErrorCode.INVALID_FAB == 7


def test_a_message_survives_being_taken_apart() -> None:
    blob = np.arange(7 << 20, dtype=np.uint8)  # more than one chunk of 5 MiB
    content = RecordDict({"weights": ArrayRecord({"safetensors": Array(blob)})})
    reply = Message(content, reply_to=question())
    reply.metadata.__dict__["_message_id"] = reply.object_id

    with no_object_id_recompute():
        tree = get_object_tree(reply)
        objects = get_all_nested_objects(reply)
    object_ids = [part.object_id for part in iterate_object_tree(tree)]
    contents = {object_id: objects[object_id].deflate() for object_id in object_ids}
    whole = inflatable_utils.inflate_object_from_contents(reply.object_id, contents)

    assert isinstance(whole, Message)
    back = whole.content.array_records["weights"]["safetensors"].numpy()
    np.testing.assert_array_equal(back, blob)


def test_arrays_are_never_unpickled() -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([object()]), allow_pickle=True)
    trap = Array("object", (1,), "numpy.ndarray", buffer.getvalue())

    with pytest.raises(ValueError, match="allow_pickle"):
        trap.numpy()


def test_pulling_objects_takes_the_times_that_we_give() -> None:
    parameters = inspect.signature(inflatable_utils.pull_objects).parameters

    assert {"initial_backoff", "backoff_cap", "max_time"} <= parameters.keys()
    assert "pull_objects" in vars(http_grid)  # FlowerSites puts its own there


def test_a_client_app_is_called_with_message_and_context() -> None:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        records = RecordDict({"echo": ConfigRecord(dict(context.node_config))})
        return Message(records, reply_to=message)

    context = Context(5, 7, {"folder": "here"}, RecordDict(), {})
    reply = app(question(), context)

    assert reply.content.config_records["echo"]["folder"] == "here"


def test_the_grid_pushes_pulls_and_lists_nodes() -> None:
    assert {"push_messages", "pull_messages", "get_node_ids"} <= set(dir(Grid))
    assert {"fab_hash", "run_id"} <= set(inspect.signature(Run).parameters)
    assert issubclass(RunNotRunningException, BaseException)


def test_a_fleet_client_signs_with_the_nodes_key() -> None:
    parameters = inspect.signature(NodeAuthHttpInterceptor).parameters

    assert list(parameters) == ["private_key", "public_key"]
    assert hasattr(FleetHttpClient, "DeactivateNode")


def test_a_fleet_client_says_how_long_its_body_is() -> None:
    sent: list[httpx.Headers] = []

    def respond(request: httpx.Request) -> httpx.Response:
        sent.append(request.headers)
        return httpx.Response(200)

    client = FleetHttpClient("http://127.0.0.1")
    client._client = httpx.Client(transport=httpx.MockTransport(respond))
    client.PullMessages(PullMessagesRequest(node=Node(node_id=7)))

    assert "content-length" in sent[0]  # the edge takes no other body
    assert "transfer-encoding" not in sent[0]


def test_what_the_socket_launcher_replaces_is_there() -> None:
    client = inspect.signature(ProtobufClient.__init__).parameters
    module = inspect.getmodule(SuperLinkLifespan)
    assert module is not None
    superlink = inspect.getsource(module)

    assert {"verify", "timeout"} <= client.keys()
    assert "_client = httpx.Client(" in inspect.getsource(ProtobufClient)
    assert "uvicorn.run(" in superlink
    assert "self.superexec_process = subprocess.Popen(command" in superlink
    assert hasattr(SuperLinkLifespan, "_start_superexec_if_needed")
    assert "subprocess.Popen(" in inspect.getsource(SubprocessExecutor.launch)
