"""What is kept of offers is bounded, by node, number, size and age."""

from moma_server.federation.edge.capabilities import Capabilities, Capability

LATER = 1e12


def offer(message_id: str, *objects: str, expires_at: float = LATER) -> Capability:
    return Capability(message_id, 1, frozenset({message_id, *objects}), expires_at)


def test_objects_are_bounded_and_the_oldest_message_makes_way() -> None:
    offers = Capabilities(max_objects=4)
    for name in ("a", "b", "c"):
        offers.add(7, offer(name, f"{name}-part"))

    kept = [offers.may_pull(7, 1, f"{name}-part") for name in ("a", "b", "c")]

    assert kept == [False, True, True]


def test_one_message_is_kept_whatever_its_size() -> None:
    offers = Capabilities(max_objects=2)

    offers.add(7, offer("large", "1", "2", "3"))

    assert offers.may_pull(7, 1, "3")


def test_messages_of_one_node_are_bounded() -> None:
    offers = Capabilities(max_objects=10_000)
    for number in range(33):
        offers.add(7, offer(str(number)))

    assert not offers.has_message(7, 1, "0")
    assert offers.has_message(7, 1, "1")


def test_an_offer_ends_in_time_and_takes_what_was_wanted_with_it() -> None:
    now = [0.0]
    offers = Capabilities(max_objects=10, clock=lambda: now[0])
    offers.add(7, offer("a", expires_at=10.0))
    offers.want(7, "a", answer_id="r", session_id="s", objects=["answer"])
    before = offers.may_push(7, 1, session_id="s", object_id="answer")

    now[0] = 10.0

    assert before
    assert not offers.may_push(7, 1, session_id="s", object_id="answer")
    assert not offers.has_run(7, 1)


def test_what_is_wanted_of_no_offer_is_not_kept() -> None:
    offers = Capabilities(max_objects=10)

    offers.want(7, "unknown", answer_id="r", session_id="s", objects=["answer"])

    assert not offers.may_push(7, 1, session_id="s", object_id="answer")


def test_nodes_that_are_gone_are_forgotten() -> None:
    offers = Capabilities(max_objects=10)
    offers.add(7, offer("a"))
    offers.add(8, offer("b"))

    offers.keep({8})

    assert (offers.has_run(7, 1), offers.has_run(8, 1)) == (False, True)


def test_a_message_takes_few_answers_each_as_often_as_it_is_said() -> None:
    offers = Capabilities(max_objects=10)
    offers.add(7, offer("a"))
    for number in range(4):
        offers.want(7, "a", answer_id=str(number), session_id="s", objects=[])

    first = offers.may_answer(7, 1, message_id="a", answer_id="0")
    fifth = offers.may_answer(7, 1, message_id="a", answer_id="4")

    assert (first, fifth) == (True, False)
