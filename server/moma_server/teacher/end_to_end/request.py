"""A message that was opened, with all that its reply needs."""

from typing import Generic, TypeVar, cast

from google.protobuf.message import DecodeError, Message

from moma_core.end_to_end.sealed_messages import (
    OpenedRequest,
)
from moma_core.end_to_end.signatures import SigningKey
from moma_core.errors import MalformedRequestError
from moma_core.teacher.refusal import Refusal
from moma_proto.convert import sealed as convert_sealed
from moma_proto.convert.limits import count_fields
from moma_proto.v1.sealed_pb2 import SealedRequest, SealedResponse

MessageT = TypeVar("MessageT", bound=Message)


class UnsealedRequest(Generic[MessageT]):
    """What a site asked, as it was before it was sealed.

    Args:
        request: As it came.
        kind: What it should hold.
        opened: Seals the answer.
        signing: The teacher's key.
        most_fields: That it may hold.
    """

    def __init__(
        self,
        request: SealedRequest,
        kind: type[MessageT],
        opened: OpenedRequest,
        signing: SigningKey,
        most_fields: int,
    ) -> None:
        self.site = request.site
        self.request_id = request.request_id
        self.issued_ms = request.issued_ms
        self._kind = kind
        self._opened = opened
        self._signing = signing
        self._most_fields = most_fields

    @property
    def digest(self) -> bytes:
        """SHA-256 of the sealed question."""
        return self._opened.digest

    def read(self) -> MessageT:
        """Returns what was enclosed.

        Raises:
            MalformedRequestError: It is something else.
        """
        count_fields(self._opened.message, self._most_fields)
        message = self._kind()
        try:
            message.MergeFromString(cast("bytes", self._opened.message))  # not copied
        except DecodeError:
            raise MalformedRequestError("the sealed message is not readable") from None
        return message

    def answer(self, message: Message) -> SealedResponse:
        """Seals and signs what the site is told."""
        return self._sealed(
            convert_sealed.response_content(message.SerializeToString())
        )

    def refuse(self, refusal: Refusal) -> SealedResponse:
        """Seals and signs why the site is told nothing."""
        return self._sealed(convert_sealed.refusal_content(refusal))

    def _sealed(self, content: bytes) -> SealedResponse:
        return convert_sealed.answer_to_wire(
            self._opened.respond(content, self._signing)
        )
