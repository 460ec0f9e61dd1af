"""What is kept of capabilities is bounded, by node, number, size and age."""

from moma_server.federation.edge.capabilities import Capabilities, Capability

LATER = 1e12


def capability(message_id: str, *objects: str, expires_at: float = LATER) -> Capability:
    return Capability(message_id, 1, frozenset({message_id, *objects}), expires_at)


def test_objects_are_bounded_and_the_oldest_message_makes_way() -> None:
    capabilities = Capabilities(max_objects=4)
    for name in ("a", "b", "c"):
        capabilities.add(7, capability(name, f"{name}-part"))

    kept = [capabilities.may_pull(7, 1, f"{name}-part") for name in ("a", "b", "c")]

    assert kept == [False, True, True]


def test_one_message_is_kept_whatever_its_size() -> None:
    capabilities = Capabilities(max_objects=2)

    capabilities.add(7, capability("large", "1", "2", "3"))

    assert capabilities.may_pull(7, 1, "3")


def test_messages_of_one_node_are_bounded() -> None:
    capabilities = Capabilities(max_objects=10_000)
    for number in range(33):
        capabilities.add(7, capability(str(number)))

    assert not capabilities.has_message(7, 1, "0")
    assert capabilities.has_message(7, 1, "1")


def test_an_offer_ends_in_time_and_takes_what_was_wanted_with_it() -> None:
    now = [0.0]
    capabilities = Capabilities(max_objects=10, clock=lambda: now[0])
    capabilities.add(7, capability("a", expires_at=10.0))
    capabilities.want(7, "a", reply_id="r", session_id="s", objects=["answer"])
    before = capabilities.may_push(7, 1, session_id="s", object_id="answer")

    now[0] = 10.0

    assert before
    assert not capabilities.may_push(7, 1, session_id="s", object_id="answer")
    assert not capabilities.has_run(7, 1)


def test_what_is_wanted_of_no_offer_is_not_kept() -> None:
    capabilities = Capabilities(max_objects=10)

    capabilities.want(7, "unknown", reply_id="r", session_id="s", objects=["answer"])

    assert not capabilities.may_push(7, 1, session_id="s", object_id="answer")


def test_nodes_that_are_gone_are_forgotten() -> None:
    capabilities = Capabilities(max_objects=10)
    capabilities.add(7, capability("a"))
    capabilities.add(8, capability("b"))

    capabilities.keep({8})

    assert (capabilities.has_run(7, 1), capabilities.has_run(8, 1)) == (False, True)


def test_a_message_takes_few_answers_each_as_often_as_it_is_said() -> None:
    capabilities = Capabilities(max_objects=10)
    capabilities.add(7, capability("a"))
    for number in range(4):
        capabilities.want(7, "a", reply_id=str(number), session_id="s", objects=[])

    first = capabilities.may_reply(7, 1, message_id="a", reply_id="0")
    fifth = capabilities.may_reply(7, 1, message_id="a", reply_id="4")

    assert (first, fifth) == (True, False)
