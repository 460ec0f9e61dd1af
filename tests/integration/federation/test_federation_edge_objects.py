"""A node touches what it was offered and was asked for, and nothing of another's."""

from typing import NamedTuple

import pytest
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    ActivateNodeResponse,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesResponse,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.run_pb2 import GetRunRequest, GetRunResponse, Run
from google.protobuf.message import Message

from tests.support.federation.edge import RUN, Door, SigningNode, answer_of, offer_of


def pull(node: SigningNode, object_id: str, run_id: int = RUN) -> PullObjectRequest:
    return PullObjectRequest(node=node.node, run_id=run_id, object_id=object_id)


def confirm(
    node: SigningNode, message_id: str, run_id: int = RUN
) -> ConfirmMessageReceivedRequest:
    return ConfirmMessageReceivedRequest(
        node=node.node, run_id=run_id, message_object_id=message_id
    )


def push(
    node: SigningNode, object_id: str, *, session: str = "s", run_id: int = RUN
) -> PushObjectRequest:
    return PushObjectRequest(
        node=node.node,
        run_id=run_id,
        session_id=session,
        object_id=object_id,
        object_content=b"content",
    )


def be_asked_for(door: Door, *object_ids: str, session: str = "s") -> None:
    """Has site-a answer its question, and SuperLink want these objects."""
    door.offer(door.site_a, "question")
    wanted = PushMessagesResponse(objects_to_push=object_ids, session_id=session)
    door.upstream.answers["push-messages"] = wanted.SerializeToString()
    assert door.call("push-messages", answer_of(door.site_a)).status_code == 200
    door.upstream.forget()


def test_a_node_pulls_and_confirms_what_it_was_offered(door: Door) -> None:
    door.offer(door.site_a, "question", "part-1", "part-2")

    calls: list[tuple[str, Message]] = [
        ("get-run", GetRunRequest(node=door.site_a.node, run_id=RUN)),
        ("pull-object", pull(door.site_a, "question")),
        ("pull-object", pull(door.site_a, "part-2")),
        ("confirm-message-received", confirm(door.site_a, "question")),
        # an answer may be lost on its way, so all of it can be asked again
        ("confirm-message-received", confirm(door.site_a, "question")),
    ]
    answers = [door.call(name, content).status_code for name, content in calls]

    assert answers == [200] * 5
    assert door.upstream.asked == [name for name, _ in calls]


def test_a_node_is_told_of_a_run_which_bundle_it_is_and_no_more(door: Door) -> None:
    door.offer(door.site_a, "question")
    path = "/srv/hospital/state/runs/run-1/order.json"
    run = Run(run_id=RUN, fab_hash="ab" * 32, account_name="root", federation="f")
    run.override_config["plan"].string = path
    door.upstream.answers["get-run"] = GetRunResponse(run=run).SerializeToString()

    answer = door.call("get-run", GetRunRequest(node=door.site_a.node, run_id=RUN))

    assert path.encode() not in answer.content
    told = GetRunResponse.FromString(answer.content).run
    assert told == Run(run_id=RUN, fab_hash="ab" * 32)


@pytest.mark.parametrize("object_id", ["question", "part"])
def test_a_node_cannot_pull_what_another_was_offered(
    door: Door, object_id: str
) -> None:
    door.offer(door.site_a, "question", "part")
    before = door.refused("object")

    answer = door.call("pull-object", pull(door.site_b, object_id), node=door.site_b)

    assert (answer.status_code, answer.content) == (403, b"")
    assert door.upstream.requests == []
    assert door.refused("object") == before + 1


def test_a_node_cannot_pull_an_object_of_its_own_answer_or_another_run(
    door: Door,
) -> None:
    be_asked_for(door, "answer")

    own = door.call("pull-object", pull(door.site_a, "answer"))
    other = door.call("pull-object", pull(door.site_a, "question", run_id=RUN + 1))

    assert (own.status_code, other.status_code) == (403, 403)
    assert door.upstream.requests == []


def test_a_node_cannot_have_anothers_message_forgotten(door: Door) -> None:
    door.offer(door.site_a, "question", "part")
    door.offer(door.site_b, "other", "part")

    theirs = door.call(
        "confirm-message-received", confirm(door.site_b, "question"), node=door.site_b
    )
    part = door.call("confirm-message-received", confirm(door.site_a, "part"))

    assert (theirs.status_code, part.status_code) == (403, 403)
    assert door.upstream.requests == []


def test_a_node_pushes_what_it_was_asked_for(door: Door) -> None:
    be_asked_for(door, "answer", "part")

    first = door.call("push-object", push(door.site_a, "part"))
    again = door.call("push-object", push(door.site_a, "part"))

    assert (first.status_code, again.status_code) == (200, 200)


@pytest.mark.parametrize(
    ("object_id", "session", "run_id"),
    [("unasked", "s", RUN), ("answer", "other", RUN), ("answer", "s", RUN + 1)],
    ids=["unasked", "other-session", "other-run"],
)
def test_a_node_cannot_push_what_nobody_asked_for(
    door: Door, object_id: str, session: str, run_id: int
) -> None:
    be_asked_for(door, "answer")

    answer = door.call(
        "push-object", push(door.site_a, object_id, session=session, run_id=run_id)
    )

    assert answer.status_code == 403
    assert door.upstream.requests == []


def test_a_node_cannot_push_for_another(door: Door) -> None:
    be_asked_for(door, "answer")

    answer = door.call("push-object", push(door.site_b, "answer"), node=door.site_b)

    assert answer.status_code == 403
    assert door.upstream.requests == []


def test_an_answer_to_its_own_question_passes(door: Door) -> None:
    door.offer(door.site_a, "question")

    answer = door.call("push-messages", answer_of(door.site_a, objects=5))

    assert answer.status_code == 200
    assert door.upstream.requests[0][1] == answer_of(
        door.site_a, objects=5
    ).SerializeToString(deterministic=True)


@pytest.mark.parametrize(
    "changed",
    [
        {"source": 1},  # SuperLink's own id: it would look like the coordinator's
        {"source": 99},
        {"destination": 8},
        {"reply_to": ""},
        {"reply_to": "another"},
        {"run_id": RUN + 1},
    ],
    ids=lambda changed: "-".join(map(str, *changed.items())),
)
def test_what_is_not_ones_own_answer_to_ones_own_question_is_refused(
    door: Door, changed: dict[str, int]
) -> None:
    door.offer(door.site_a, "question")
    door.offer(door.site_b, "another")

    answer = door.call("push-messages", answer_of(door.site_a, **changed))

    assert answer.status_code == 403
    assert door.upstream.requests == []


def test_an_answer_whose_tree_is_another_messages_is_refused(door: Door) -> None:
    door.offer(door.site_a, "question")
    request = answer_of(door.site_a)
    request.message_object_trees[0].object_id = "another"

    answer = door.call("push-messages", request)

    assert answer.status_code == 403
    assert door.upstream.requests == []


@pytest.mark.parametrize("count", [0, 2])
def test_one_call_carries_one_answer(door: Door, count: int) -> None:
    door.offer(door.site_a, "question")
    request = answer_of(door.site_a)
    messages, trees = [*request.messages_list], [*request.message_object_trees]
    del request.messages_list[:], request.message_object_trees[:]
    request.messages_list.extend(messages * count)
    request.message_object_trees.extend(trees * count)

    answer = door.call("push-messages", request)

    assert answer.status_code == 400
    assert door.upstream.requests == []


class Claim(NamedTuple):
    """A call that says it is site-a's node."""

    name: str
    content: Message


def claims(door: Door) -> list[Claim]:
    victim = door.site_a
    return [
        Claim("pull-messages", PullMessagesRequest(node=victim.node)),
        Claim("send-node-heartbeat", SendNodeHeartbeatRequest(node=victim.node)),
        Claim("deactivate-node", DeactivateNodeRequest(node_id=victim.known.node_id)),
        Claim("activate-node", ActivateNodeRequest(public_key=victim.known.public_key)),
        Claim("get-run", GetRunRequest(node=victim.node, run_id=RUN)),
        Claim("pull-object", pull(victim, "question")),
        Claim("push-object", push(victim, "answer")),
        Claim("push-messages", answer_of(victim)),
        Claim("confirm-message-received", confirm(victim, "question")),
    ]


@pytest.mark.parametrize("position", range(9))
def test_a_node_cannot_call_as_another(door: Door, position: int) -> None:
    be_asked_for(door, "answer")
    claim = claims(door)[position]
    before = door.refused("node")

    answer = door.call(claim.name, claim.content, node=door.site_b)

    assert answer.status_code == 401
    assert door.upstream.requests == []
    assert door.refused("node") == before + 1


def test_an_engine_that_knows_a_node_by_another_id_is_not_believed(door: Door) -> None:
    request = ActivateNodeRequest(public_key=door.site_a.known.public_key)
    other = ActivateNodeResponse(node_id=door.site_b.known.node_id)
    door.upstream.answers["activate-node"] = other.SerializeToString()

    answer = door.call("activate-node", request)

    assert answer.status_code == 502


def test_a_refused_offer_is_no_offer(door: Door) -> None:
    door.upstream.answers["pull-messages"] = offer_of("question", "part")
    door.upstream.status = 401
    door.call("pull-messages", PullMessagesRequest(node=door.site_a.node))
    door.upstream.forget()

    answer = door.call("pull-object", pull(door.site_a, "part"))

    assert answer.status_code == 403


def test_an_offer_ends_with_its_message(door: Door) -> None:
    door.upstream.answers["pull-messages"] = offer_of("question", "part", ttl=-1.0)
    door.call("pull-messages", PullMessagesRequest(node=door.site_a.node))

    answer = door.call("pull-object", pull(door.site_a, "part"))

    assert answer.status_code == 403


def test_a_nodes_oldest_offers_make_way(door: Door) -> None:
    for number in range(40):  # of two objects each; 40 are kept of one node
        door.offer(door.site_a, f"question-{number}", f"part-{number}")

    oldest = door.call("pull-object", pull(door.site_a, "part-0"))
    newest = door.call("pull-object", pull(door.site_a, "part-39"))

    assert (oldest.status_code, newest.status_code) == (403, 200)
