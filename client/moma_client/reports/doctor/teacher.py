"""The doctor's look at a site's teacher: card, terms, budget, reference patch."""

import threading
from collections.abc import Iterator

from moma_client.config.site import SiteConfig
from moma_client.context import RunContext
from moma_client.identity.revocations import look_once
from moma_client.metrics import silent_metrics
from moma_client.reports.plan import plan_queries
from moma_client.reports.plan_text import budget_line
from moma_client.teacher.connect import open_teacher
from moma_client.teacher.local_teacher import local_teacher, read_local_card
from moma_client.teacher.onboarding import check_reference_patch, verify_reference_patch
from moma_client.teacher.retry import FAIL_FAST, ONCE
from moma_client.teacher.terms import look_at_terms
from moma_core.errors import RefusedError, TeacherUnavailableError
from moma_core.runtime.finding import Finding
from moma_core.teacher.card.card import TeacherCard


class TeacherLook:
    """Looks at the teacher step by step.

    Args:
        config: Settings of this site, as if this were its only teacher.

    Attributes:
        config: The same.
        found: Card, once it was read.
    """

    def __init__(self, config: SiteConfig) -> None:
        self.config = config
        self.found: TeacherCard | None = None

    @property
    def name(self) -> str:
        """Name of the teacher; of one on this disk, once its card was read."""
        section = self.config.teacher
        if section.is_remote:
            return section.name
        return str(section.card) if self.found is None else self.found.name

    def card(self) -> Iterator[Finding]:
        """Yields who the teacher is.

        Raises:
            MomaError: It cannot be reached or read, or is not who it should be.
        """
        section = self.config.teacher
        if not section.is_remote:
            card = read_local_card(section)
        else:
            look_once(self.config)
            card = self._described()
        self.found = card
        text = (
            f"{card.name}: {card.architecture}, {card.embedding_length} values, "
            f"{len(card.class_names)} classes, {card.input_size_px} px, weights "
            f"{card.digest[:12]}"
        )
        facts: dict[str, object] = {"digest": card.digest}
        yield Finding("teacher", "ok", text, facts=facts)
        if card.momentum_sessions:
            text = "momentum sessions are on, close to handing out the weights"
            yield Finding("teacher", "warning", text)

    def _described(self) -> TeacherCard:
        with open_teacher(self.config, retries=ONCE) as remote:
            try:
                return remote.describe()
            except TeacherUnavailableError as error:
                if isinstance(error, RefusedError):
                    raise
                raise TeacherUnavailableError(
                    f"{error}; a teacher that has just been started loads its model "
                    f"first: run doctor again in a minute, then ask its operator"
                ) from error

    def terms(self) -> Iterator[Finding]:
        """Yields the terms, whether they are accepted and allow a student."""
        yield from look_at_terms(self._card(), self.config.teacher)

    def budget(self) -> Iterator[Finding]:
        """Yields whether the budget that is left covers a run.

        The request is signed and sealed: a site that is not pinned gets no response.

        Raises:
            RefusedError: The teacher does not serve this site.
            MomaError: It does not answer, or the plan cannot be made.
        """
        if not self.config.teacher.is_remote:
            yield Finding("budget", "ok", "a teacher on this disk asks for none")
            return
        plan = plan_queries(self.config, epochs=None, patches_per_second=None)
        if plan.left is None:
            yield Finding("budget", "problem", plan.away)
            return
        wanted = plan.charged_by_run
        facts: dict[str, object] = {"left": plan.left, "wanted": wanted}
        text = budget_line(plan)
        if not plan.queries or wanted <= plan.left:
            yield Finding("budget", "ok", text, facts=facts)
        elif plan.left and plan.mode == "bank":
            text += "; until then a run trains on the views that it gets"
            yield Finding("budget", "warning", text, facts=facts)
        elif plan.charged <= plan.left:
            if not self.config.teacher.is_updated:
                text += "; or have its outputs kept (teacher.views: 4), and ask once"
            yield Finding("budget", "warning", text, facts=facts)
        else:
            yield Finding("budget", "problem", text, refused=True, facts=facts)

    def reference(self, *, ask: bool) -> Iterator[Finding]:
        """Yields whether the reference patch is answered as the card says.

        Args:
            ask: Whether to query a remote teacher; one on this disk is in any case.

        Raises:
            MismatchError: It is not.
        """
        card, section = self._card(), self.config.teacher
        if card.golden is None:
            yield Finding(
                "reference patch", "warning", "the card has no reference patch"
            )
            return
        if not section.is_remote:
            check_reference_patch(card, local_teacher(card, section))
        elif not ask:
            yield Finding(
                "reference patch", "ok", "not asked; --ask does, for one patch"
            )
            return
        else:
            context = RunContext(self.config, threading.Event(), silent_metrics())
            verify_reference_patch(context, card, FAIL_FAST)
        yield Finding("reference patch", "ok", "answered as the card says")

    def _card(self) -> TeacherCard:
        if self.found is None:
            raise ValueError("the card was not read")
        return self.found
