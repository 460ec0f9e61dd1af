"""Where a program shows its metrics, as its config file says it."""

from ipaddress import ip_address
from typing import Annotated, ClassVar, Self

from pydantic import AfterValidator, Field, model_validator

from moma_core.config import ConfigPath, Section
from moma_core.network.address import address_of, bare_host


class PageSection(Section):
    """An address of the metrics: loopback, or guarded by TLS and a token."""

    guards: ClassVar[tuple[str, ...]] = ("token_file",)
    guarded_by: ClassVar[str] = "a token"

    host: Annotated[str, AfterValidator(bare_host)] = Field(
        default="127.0.0.1", min_length=1, description="Address to listen at."
    )
    port: int = Field(ge=0, le=65535, description="TCP port; 0: no page.")
    certificate: ConfigPath | None = Field(
        default=None, description="PEM with its chain; read again when it changes."
    )
    key: ConfigPath | None = Field(
        default=None, description="Private key of the certificate."
    )
    token_file: ConfigPath | None = Field(
        default=None, description="File with the bearer token; mode 0600."
    )

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the address."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def url(self) -> str:
        """Without a path."""
        scheme = "http" if self.certificate is None else "https"
        return f"{scheme}://{address_of(self.host, self.port)}"

    @model_validator(mode="after")
    def _certificate_and_key_come_together(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            there, missing = "certificate", "key"
            if self.certificate is None:
                there, missing = missing, there
            raise ValueError(f"{there} is given without {missing}")
        return self

    @model_validator(mode="after")
    def _others_need_tls_and_a_guard(self) -> Self:
        if self.loopback:
            return self
        wanted = ["certificate", "key"]
        missing = [name for name in wanted if getattr(self, name) is None]
        if all(getattr(self, name) is None for name in self.guards):
            missing.append(" or ".join(self.guards))
        if missing:
            raise ValueError(
                f"host {self.host!r} can be reached from other machines, which takes "
                f"TLS and {self.guarded_by}: give {', '.join(missing)}, or use "
                f"127.0.0.1"
            )
        return self
