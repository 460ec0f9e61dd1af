"""Sites and a clock for the logic of rounds: no engine, no time that passes."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from moma_core.federation.task import RoundReport, RoundTask
from moma_server.federation.run.round import Reply

Behaviour = Callable[[RoundTask, int], RoundReport | Reply | None]


def takes_part(patches: int = 10) -> Behaviour:
    return lambda _task, _ask: RoundReport(patches=patches, metrics={"loss": 0.5})


def silent(_task: RoundTask, _ask: int) -> None:
    return None


@dataclass
class FakeClock:
    """Time that moves only when somebody sleeps."""

    now: float = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class FakeSites:
    """Each site answers at the next poll; `offline` ones come back at their time.

    Those in `reconnects` connect anew at each of their times.
    """

    clock: FakeClock
    behaviours: dict[str, Behaviour]
    online_at: dict[str, float] = field(default_factory=dict)
    reconnects: dict[str, list[float]] = field(default_factory=dict)
    asked: list[tuple[str, RoundTask]] = field(default_factory=list)
    forgotten: int = 0
    _answers: list[Reply] = field(default_factory=list)

    def available(self) -> Collection[str]:
        return [
            site
            for site in self.behaviours
            if self.online_at.get(site, 0) <= self.clock.now
        ]

    def connected_at(self) -> Mapping[str, float]:
        return {
            site: max((at for at in times if at <= self.clock.now), default=0.0)
            for site, times in self.reconnects.items()
        }

    def send(self, site: str, task: RoundTask, *, seconds: float) -> str | None:
        assert seconds > 0
        self.asked.append((site, task))
        message_id = f"{site}-{len(self.asked)}"
        tries = sum(name == site for name, _ in self.asked)
        reply = self.behaviours[site](task, tries)
        if isinstance(reply, RoundReport):
            self._answers.append(Reply(message_id, reply))
        elif reply is not None:
            self._answers.append(Reply(message_id, None, reply.trouble, reply.reason))
        return message_id

    def poll(self) -> Sequence[Reply]:
        answers, self._answers = self._answers, []
        return answers

    def forget(self) -> None:
        self._answers.clear()
        self.forgotten += 1
