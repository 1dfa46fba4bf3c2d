"""What the application works with while it runs."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from foldase.store import Store
from foldase.store.accounts import Accounts
from foldase.store.weights import WeightsLibrary
from foldase_web.proxy import RayProxy
from foldase_web.services.signin import FailureBrake, ensure_token
from foldase_web.settings import Settings
from foldase_web.sse import Hub
from foldase_workflows.contracts.errors import Unavailable
from foldase_workflows.contracts.registry import Registry, default_registry


def installed_version() -> str:
    """The version of the installed package, ``0`` where it is not installed."""
    try:
        return version("foldase")
    except PackageNotFoundError:
        return "0"


@dataclass(slots=True)
class Services:
    """Made once, closed when the server stops."""

    settings: Settings
    version: str
    store: Store
    hub: Hub
    proxy: RayProxy
    brake: FailureBrake
    weights: WeightsLibrary

    @classmethod
    def open(cls, settings: Settings) -> Services:
        """Open the state folder, bring its database up to date and see that there is a token.

        Raises:
            FoldaseError: the database cannot be used.
        """
        settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        store = open_store(settings)
        ensure_token(settings.home, store.accounts)
        hub = Hub(store.events, poll_seconds=settings.poll_seconds, max_streams=settings.max_streams)
        brake = FailureBrake(settings.failed_sign_ins)
        weights = WeightsLibrary(settings.weights, settings.home)
        weights.start()
        return cls(settings, installed_version(), store, hub, RayProxy(settings.home), brake, weights)

    @property
    def accounts(self) -> Accounts:
        """People and their credentials."""
        return self.store.accounts

    @property
    def registry(self) -> Registry:
        """The operators of this installation, found on first use.

        Raises:
            Unavailable: a module of operators cannot be imported.
        """
        try:
            return default_registry()
        except ImportError as error:
            raise Unavailable(
                f"the operators cannot be loaded: {error}",
                code="operators_unavailable",
                hint="see FOLDASE_OPERATORS and the installed packages, then start the server again",
            ) from error

    async def close(self) -> None:
        """Let go of everything."""
        self.weights.close()
        self.hub.close()
        await self.proxy.close()
        self.store.close()


def open_store(settings: Settings) -> Store:
    """The store of the state folder, in its own SQLite file or in the database that the settings name."""
    if settings.database_url is None:
        return Store.at(settings.home)
    return Store(settings.database_url, settings.home.resolve() / "blobs")
