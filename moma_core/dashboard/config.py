"""Where a program shows its dashboard, and to whom, as its config file says it."""

from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from moma_core.config import ConfigPath
from moma_core.errors import ConfigError
from moma_core.metrics_http.config import PageSection

PORT = 9467

HostName = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,252})$")]


class DashboardSection(PageSection):
    """A page for a browser: loopback, or TLS and a token or a client certificate."""

    guards: ClassVar[tuple[str, ...]] = ("token_file", "client_authority")
    guarded_by: ClassVar[str] = "a token or client certificates"

    port: int = Field(default=PORT, ge=0, le=65535, description="TCP port; 0: no page.")
    token_file: ConfigPath | None = Field(
        default=None,
        description="File with the read-only token, a browser's password; mode 0600.",
    )
    client_authority: ConfigPath | None = Field(
        default=None,
        description="PEM of the one CA whose client certificates may look; an "
        "institution's own, never the federation's.",
    )
    names: tuple[HostName, ...] = Field(
        default=(),
        max_length=8,
        description="Other host names by which a browser asks for it.",
    )
    refresh_seconds: int = Field(
        default=10, ge=2, le=3600, description="So often an open page is renewed."
    )

    @model_validator(mode="after")
    def _client_certificates_take_tls(self) -> Self:
        if self.client_authority is not None and self.certificate is None:
            raise ValueError(
                "client_authority is given without certificate and key: without TLS "
                "nobody shows a certificate"
            )
        return self

    def check_client_authority(self, federation: Path) -> None:
        """Makes sure that not every member of the federation may look.

        Args:
            federation: The federation's CA certificate, PEM.

        Raises:
            ConfigError: It is the CA of the clients as well, or cannot be read.
        """
        if self.client_authority is None:
            return
        try:
            is_same = federation.read_bytes().split() == (
                self.client_authority.read_bytes().split()
            )
        except OSError as error:
            raise ConfigError(f"cannot read a certificate: {error}") from None
        if is_same:
            raise ConfigError(
                f"dashboard.client_authority {self.client_authority} is the "
                "federation's CA: every member could look; give a CA of your own"
            )
