"""The one configuration of the web server: typed, checked once at the edge, never changed afterwards."""

from __future__ import annotations

import hashlib
import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

GIB = 1024**3
MIB = 1024**2

DEFAULT_PORTS = range(8420, 8440)
"""Where the server listens when no port is asked for: the first of these that is free."""

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})

_ENVIRONMENT = {
    "FOLDASE_HOME": "home",
    "FOLDASE_HOST": "host",
    "FOLDASE_PORT": "port",
    "FOLDASE_ALLOW_REMOTE": "allow_remote",
    "FOLDASE_ALLOWED_HOSTS": "allowed_hosts",
    "FOLDASE_DATABASE_URL": "database_url",
    "FOLDASE_UPLOAD_LIMIT": "upload_limit_bytes",
    "FOLDASE_WEIGHTS": "weights",
}


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on ``host``."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Settings(BaseModel):
    """Everything the server can be told. Sign-in cannot be switched off."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    home: Path = Field(Path(".foldase"), description="the state folder")
    host: str = Field("127.0.0.1", min_length=1, description="address to listen on")
    port: int | None = Field(None, ge=0, le=65535, description="0: any free port")
    allow_remote: bool = Field(False, description="allow an address that other machines can reach")
    allowed_hosts: tuple[str, ...] = Field(
        (), description="names under which the server may be called, besides the loopback ones"
    )
    database_url: str | None = Field(None, description="default: SQLite in the state folder")
    static: Path = Field(Path(__file__).parent / "static", description="the built frontend")
    weights: Path | None = Field(None, description="folder of public weights, each a folder below it")
    upload_limit_bytes: int = Field(GIB, gt=0)
    document_limit_bytes: int = Field(MIB, gt=0, description="of one YAML text")
    body_limit_bytes: int = Field(4 * MIB, gt=0, description="of any request but an upload")
    slice_limit_bytes: int = Field(64 * MIB, gt=0, description="of the array values in one answer")
    code_seconds: float = Field(600.0, gt=0, description="life of the one-time code in the printed link")
    failed_sign_ins: int = Field(10, gt=0, description="failed sign-ins an address may make a minute")
    max_streams: int = Field(1000, gt=0, description="event streams open at once")
    poll_seconds: float = Field(0.2, gt=0, description="how often the event table is asked for news")
    heartbeat_seconds: float = Field(15.0, gt=0, description="silence after which a stream says it lives")

    @field_validator("weights")
    @classmethod
    def _is_folder(cls, weights: Path | None) -> Path | None:
        if weights is not None and not weights.is_dir():
            raise ValueError(f"{weights} is no folder (--weights, FOLDASE_WEIGHTS)")
        return weights

    @model_validator(mode="after")
    def _closed_unless_opened_knowingly(self) -> Self:
        if is_loopback(self.host):
            return self
        if not self.allow_remote:
            raise ValueError(
                f"refusing to listen on {self.host}: other machines could reach it; "
                "pass --allow-remote (FOLDASE_ALLOW_REMOTE=1) if that is wanted"
            )
        if not self.allowed_hosts:
            raise ValueError(
                "a server that other machines can reach needs --allowed-host (FOLDASE_ALLOWED_HOSTS): "
                "the names under which people call it"
            )
        return self

    @property
    def host_names(self) -> frozenset[str]:
        """Names that a ``Host`` header may carry, in lower case and without ports."""
        own = {self.host.lower()} if is_loopback(self.host) else set()
        return LOOPBACK_NAMES | own | {name.lower() for name in self.allowed_hosts}

    @property
    def cookie_name(self) -> str:
        """Browsers send a host's cookies to all its ports; two state folders must not sign each other out."""
        folder = hashlib.sha256(str(self.home.resolve()).encode()).hexdigest()
        return f"foldase_session_{folder[:8]}"

    @classmethod
    def load(cls, given: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Settings:
        """Settings from the environment, overridden by those that ``given`` holds and are not None.

        Raises:
            pydantic.ValidationError: a value is wrong, or the server would be open to other machines.
        """
        environ = os.environ if environ is None else environ
        values: dict[str, Any] = {
            field: environ[variable] for variable, field in _ENVIRONMENT.items() if environ.get(variable)
        }
        if isinstance(values.get("allowed_hosts"), str):
            names = values["allowed_hosts"].split(",")
            values["allowed_hosts"] = tuple(name.strip() for name in names if name.strip())
        values.update({name: value for name, value in given.items() if value is not None})
        return cls(**values)
