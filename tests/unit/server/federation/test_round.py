"""A round names every site: who took part, and why the others did not."""

import dataclasses

import pytest

from moma_core.errors import UpdateRejectedError
from moma_core.federation.run_state import OwnState
from moma_core.federation.task import RoundReport, RoundTask
from moma_server.federation.run.records import SiteEntry
from moma_server.federation.run.round import Reply, Round, RoundRules, RoundStand
from tests.support.federation.fake_sites import (
    Behaviour,
    FakeClock,
    FakeSites,
    silent,
    takes_part,
)

TASK = RoundTask(
    kind="train", run="r1", round=1, rounds=1, local_epochs=1, mode="independent"
)
RULES = RoundRules(
    deadline_seconds=100, poll_seconds=1, tries=3, quorum=1, grace_seconds=200
)


def accept_all(_site: str, _report: RoundReport) -> None:
    """Every report fits."""


def run(sites: FakeSites, rules: RoundRules = RULES) -> dict[str, SiteEntry]:
    round_ = Round(TASK, sites=sites, rules=rules, clock=sites.clock, accept=accept_all)
    return round_.run(list(sites.behaviours))


def stands_of(sites: FakeSites) -> list[RoundStand]:
    """Runs a round, and returns how it stood whenever that changed."""
    stands: list[RoundStand] = []
    Round(
        TASK,
        sites=sites,
        rules=RULES,
        clock=sites.clock,
        accept=accept_all,
        on_progress=stands.append,
    ).run(list(sites.behaviours))
    return stands


def world(**behaviours: Behaviour) -> FakeSites:
    return FakeSites(FakeClock(), behaviours)


def test_a_round_ends_as_soon_as_all_have_answered() -> None:
    sites = world(a=takes_part(), b=takes_part(20))

    entries = run(sites)

    assert {site: entry.state for site, entry in entries.items()} == {
        "a": "took_part",
        "b": "took_part",
    }
    assert entries["b"].patches == 20
    assert entries["b"].metrics == {"loss": 0.5}
    assert entries["b"].answered_at == 1000
    assert sites.clock.now < 1005


def test_a_site_that_does_not_answer_is_late_at_the_deadline() -> None:
    sites = world(a=takes_part(), b=silent)

    entries = run(sites)

    assert entries["a"].state == "took_part"
    assert entries["b"].state == "late"
    assert sites.clock.now == pytest.approx(1100, abs=1)
    assert sites.forgotten == 1


def test_a_site_that_is_not_connected_is_away() -> None:
    sites = world(a=takes_part(), b=takes_part())
    sites.online_at["b"] = 10_000

    entries = run(sites)

    assert entries["b"].state == "away"
    assert "b" not in [site for site, _ in sites.asked]


def test_a_round_with_its_quorum_waits_a_grace_time_for_who_never_came() -> None:
    sites = world(a=takes_part(), b=takes_part())
    sites.online_at["b"] = 10_000

    entries = run(sites, dataclasses.replace(RULES, grace_seconds=30))

    assert entries["b"] == SiteEntry(state="away", reason="the site was not connected")
    assert sites.clock.now == pytest.approx(1030, abs=2)


def test_within_the_grace_time_a_site_still_takes_part() -> None:
    sites = world(a=takes_part(), b=takes_part())
    sites.online_at["b"] = 1020

    entries = run(sites, dataclasses.replace(RULES, grace_seconds=30))

    assert entries["b"].state == "took_part"


def test_a_site_that_was_asked_has_until_the_deadline() -> None:
    sites = world(a=takes_part(), b=silent, c=takes_part())
    sites.online_at["c"] = 10_000

    entries = run(sites, dataclasses.replace(RULES, grace_seconds=30))

    assert [entry.state for entry in entries.values()] == ["took_part", "late", "away"]
    assert sites.clock.now == pytest.approx(1100, abs=1)


def test_without_its_quorum_a_round_waits_until_the_deadline() -> None:
    sites = world(a=takes_part(), b=takes_part())
    sites.online_at["b"] = 1090
    rules = dataclasses.replace(RULES, quorum=2, grace_seconds=30)

    entries = run(sites, rules)

    assert entries["b"].state == "took_part"


def test_a_site_that_comes_back_in_time_may_return() -> None:
    def lost_once(_task: RoundTask, ask: int) -> RoundReport | Reply:
        if ask == 1:
            return Reply("", trouble="away", reason="the site was lost")
        return RoundReport(patches=5)

    sites = world(a=lost_once)
    sites.online_at["a"] = 1040

    entries = run(sites)

    assert entries["a"].state == "took_part"
    assert len(sites.asked) == 2
    assert sites.asked[0][1].key == sites.asked[1][1].key


def test_a_failing_site_is_asked_a_bounded_number_of_times() -> None:
    def fails(_task: RoundTask, _ask: int) -> Reply:
        return Reply("", trouble="failed", reason="the site could not do the work")

    sites = world(a=fails, b=takes_part())

    entries = run(sites)

    assert entries["a"].state == "failed"
    assert entries["a"].reason == "the site could not do the work"
    assert [site for site, _ in sites.asked].count("a") == 3
    assert sites.clock.now < 1020  # nobody is waited for any more


def refuses(_task: RoundTask, _ask: int) -> RoundReport:
    return RoundReport(refusal="the policy forbids it")


def test_a_refusal_is_final() -> None:
    def other_bundle(_task: RoundTask, _ask: int) -> Reply:
        return Reply("", trouble="refused", reason="the bundle is not served")

    sites = world(a=refuses, b=other_bundle)

    entries = run(sites)

    assert [entries[site].state for site in "ab"] == ["refused", "refused"]
    assert entries["a"].reason == "the policy forbids it"
    assert len(sites.asked) == 2


def refuses_at_first(_task: RoundTask, ask: int) -> RoundReport:
    if ask == 1:
        return RoundReport(refusal="the site cannot train; its operator knows why")
    return RoundReport(patches=5)


def test_a_site_that_refused_and_starts_again_takes_part_in_the_same_round() -> None:
    sites = world(a=refuses_at_first, b=silent)
    sites.reconnects["a"] = [500, 1040]  # the first before the round began

    entries = run(sites)

    assert entries["a"].state == "took_part"
    assert [site for site, _ in sites.asked].count("a") == 2


def test_a_round_says_who_refused_until_it_may_return() -> None:
    sites = world(a=refuses_at_first, b=silent)
    sites.reconnects["a"] = [1040]

    stands = stands_of(sites)

    assert [(each.done, dict(each.own)) for each in stands] == [
        (0, {}),
        (1, {"a": OwnState(became="refused")}),
        (1, {}),
    ]


def test_after_its_last_return_a_site_is_told_that_it_is_asked_no_more() -> None:
    sites = world(a=refuses, b=silent)
    sites.reconnects["a"] = [1000.0 + second for second in range(100)]

    stands = stands_of(sites)

    own = [each.own["a"].may_return for each in stands if "a" in each.own]
    assert set(own[:-1]) == {True}
    assert own[-1] is False


@pytest.mark.parametrize("answers", [True, False])
def test_a_refusal_is_kept_where_the_site_connects_anew_and_says_no_more(
    answers: bool,
) -> None:
    def refuses_and_drops_off(task: RoundTask, ask: int) -> RoundReport | None:
        if not answers:
            sites.online_at["a"] = 10_000
        return refuses(task, ask) if ask == 1 else None

    sites = world(a=refuses_and_drops_off, b=silent)
    sites.reconnects["a"] = [1040]

    entries = run(sites)

    assert entries["a"] == SiteEntry(
        state="refused",
        reason="the policy forbids it; it connected anew, and gave no answer",
    )


def test_a_site_that_drops_off_after_a_refusal_holds_a_round_for_its_grace() -> None:
    def refuses_and_drops_off(task: RoundTask, ask: int) -> RoundReport:
        sites.online_at["a"] = 10_000
        return refuses(task, ask)

    sites = world(a=refuses_and_drops_off, b=takes_part(), c=takes_part())
    sites.online_at["c"] = 1020
    sites.reconnects["a"] = [1010]

    entries = run(sites, dataclasses.replace(RULES, grace_seconds=30))

    assert entries["a"].state == "refused"
    assert sites.clock.now == pytest.approx(1030, abs=2)


def test_to_connect_anew_gives_a_failing_site_one_try_a_time() -> None:
    def fails(_task: RoundTask, _ask: int) -> Reply:
        return Reply("", trouble="failed", reason="the site could not do the work")

    sites = world(a=fails, b=silent)
    sites.reconnects["a"] = [1000.0 + second for second in range(100)]

    entries = run(sites)

    assert entries["a"].state == "failed"
    assert [site for site, _ in sites.asked].count("a") == RULES.tries + 3


def test_a_link_that_drops_after_a_return_costs_a_site_none_of_the_others() -> None:
    def fails_drops_and_takes_part(_task: RoundTask, ask: int) -> Reply | RoundReport:
        if ask <= RULES.tries:
            return Reply("", trouble="failed", reason="the site could not do the work")
        if ask == RULES.tries + 1:
            return Reply("", trouble="away", reason="the site was lost")
        return RoundReport(patches=10, metrics={"loss": 0.5})

    sites = world(a=fails_drops_and_takes_part, b=silent)
    sites.reconnects["a"] = [1000.0 + second for second in range(100)]

    entries = run(sites)

    assert entries["a"].state == "took_part"


def test_a_round_does_not_wait_for_a_site_that_refused_to_come_back() -> None:
    sites = world(a=refuses_at_first, b=takes_part())
    sites.reconnects["a"] = [1040]

    entries = run(sites)

    assert entries["a"].state == "refused"
    assert sites.clock.now < 1005


def test_a_site_that_connects_for_ever_is_asked_a_bounded_number_of_times() -> None:
    sites = world(a=refuses, b=silent)
    sites.reconnects["a"] = [1000.0 + second for second in range(100)]

    entries = run(sites)

    assert entries["a"].state == "refused"
    assert [site for site, _ in sites.asked].count("a") == 4


def test_a_site_whose_update_was_rejected_is_not_asked_again() -> None:
    def accept(site: str, _report: RoundReport) -> None:
        if site == "a":
            raise UpdateRejectedError("w holds a value that is not finite")

    sites = world(a=takes_part(), b=silent)
    sites.reconnects["a"] = [1040]

    entries = Round(
        TASK, sites=sites, rules=RULES, clock=sites.clock, accept=accept
    ).run(["a", "b"])

    assert entries["a"].state == "failed"
    assert [site for site, _ in sites.asked].count("a") == 1


def test_a_rejected_update_is_named_and_the_others_go_on() -> None:
    def accept(site: str, _report: RoundReport) -> None:
        if site == "a":
            raise UpdateRejectedError("w holds a value that is not finite")

    sites = world(a=takes_part(), b=takes_part())

    entries = Round(
        TASK, sites=sites, rules=RULES, clock=sites.clock, accept=accept
    ).run(["a", "b"])

    assert entries["a"].state == "failed"
    assert entries["a"].reason == "update rejected: w holds a value that is not finite"
    assert entries["b"].state == "took_part"


def test_a_task_that_cannot_be_sent_counts_as_a_try() -> None:
    class Deaf(FakeSites):
        def send(self, site: str, task: RoundTask, *, seconds: float) -> str | None:
            super().send(site, task, seconds=seconds)
            self.forget()
            return None

    sites = Deaf(FakeClock(), {"a": takes_part()})

    entries = run(sites)

    assert entries["a"].state == "away"
    assert len(sites.asked) == 3


def test_an_answer_to_a_question_of_the_past_is_ignored() -> None:
    class Noisy(FakeSites):
        def poll(self) -> list[Reply]:
            stranger = Reply("from-yesterday", RoundReport(patches=99))
            return [stranger, *super().poll()]

    sites = Noisy(FakeClock(), {"a": silent})

    entries = run(sites)

    assert entries["a"].state == "late"


def test_a_silent_site_is_reminded_and_either_answer_counts() -> None:
    def lost_message(_task: RoundTask, ask: int) -> RoundReport | None:
        return RoundReport(patches=5) if ask == 2 else None

    sites = world(a=lost_message)

    entries = run(sites)

    assert entries["a"].state == "took_part"
    assert sites.clock.now == pytest.approx(1031, abs=2)


def test_reminders_grow_rare() -> None:
    sites = world(a=silent)

    run(sites, dataclasses.replace(RULES, deadline_seconds=3600, tries=1))

    assert len(sites.asked) == 5  # at 0, 30, 120, 390 and 1200 seconds
