"""One replica of the search endpoint, without Ray.

`Replica` builds the parts (engine, batcher, HTTP, gRPC) and keeps them up to date with the bundle
store, the token file and the registry. `serve.app` wraps it for Ray Serve.
"""

import functools
import gc
import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from fastapi import FastAPI

from adapterdistill.backbone import load_encoder
from adapterdistill.errors import AdapterDistillError, ConfigError, ServingError
from adapterdistill.files import keep_private
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.registry.client.renewal import LOOK_EVERY_S, keep_renewed
from adapterdistill.serve.engine.engine import Engine, Refresh
from adapterdistill.serve.engine.live import tenant_of
from adapterdistill.serve.engine.proofs import PROVE_EVERY_S
from adapterdistill.serve.engine.withdrawals import WithdrawalFollower
from adapterdistill.serve.grpc.rpc import Rpc
from adapterdistill.serve.http.api import build_api
from adapterdistill.serve.http.middleware import write_request_log
from adapterdistill.serve.metrics import Metrics
from adapterdistill.serve.queue.batcher import Batcher
from adapterdistill.serve.queue.keeping import Keeper
from adapterdistill.serve.queue.searching import Searcher
from adapterdistill.serve.settings import ServeSettings
from adapterdistill.serve.tokens import Tokens
from adapterdistill.store.mirror import Mirror
from adapterdistill.store.pushing import Receiver

if TYPE_CHECKING:  # it needs an extra
    from adapterdistill.serve.tracing import Tracing

_log = logging.getLogger("ray.serve")


class Replica:
    """Encoder, engine and batcher, the two interfaces over them, and the threads that follow.

    `rpc` answers the gRPC calls; it and the HTTP app belong to one event loop.
    """

    def __init__(self, settings: ServeSettings, *, replica_id: str = "") -> None:
        """Load the encoder and the store's bundles, and start the threads.

        Raises:
            ConfigError, EncoderError: the store, the token file or the encoder is refused.
            ServingError: the encoder takes more memory than encoders may.
        """
        keep_private()
        torch.set_num_threads(settings.threads)
        store = settings.open_store()
        self._mirror = store if isinstance(store, Mirror) else None
        load = functools.partial(
            load_encoder,
            dtype=settings.dtype,
            device=settings.device,
            max_tokens=settings.max_tokens,
        )
        encoder = load(settings.encoder)
        self._engine = Engine(
            encoder,
            store,
            key_for=settings.key_for,
            others={name: functools.partial(load, name) for name in settings.other_encoders},
            encoder_mib=settings.encoder_mib,
            bank_mib=settings.bank_mib,
            max_slots=settings.max_slots,
        )
        self._metrics = Metrics(replica_id)
        self._tokens = Tokens(settings.tokens) if settings.tokens is not None else None
        self._log_requests = settings.log_requests
        self._feedback_store = settings.feedback_store
        self._embeddings = settings.embeddings
        self._batcher = Batcher(
            self._metrics.timed(self._engine, self._engine.answer),
            settings.queue_limits,
            max_query_tokens=encoder.weights.num_positions,
            max_wait_ms=settings.max_wait_ms,
            request_timeout_s=settings.request_timeout_s,
        )
        self._receiver = (
            Receiver(
                store if self._mirror is None else self._mirror.store,
                max_bytes=int(settings.max_push_mib * 2**20),
                key_for=settings.key_for,
            )
            if settings.push
            else None
        )
        self._keeper = Keeper(self._feedback_store) if self._feedback_store is not None else None
        self._searcher = Searcher(self._engine, self._batcher, keeper=self._keeper)
        self._tracing = _tracing() if settings.traces else None
        self.rpc = Rpc(
            self._engine,
            self._batcher,
            metrics=self._metrics,
            searcher=self._searcher,
            tokens=self._tokens,
            log_requests=self._log_requests,
            tracing=self._tracing,
        )
        self._refreshed_at = time.monotonic()
        self._said_lost = False
        self.refresh()
        self._stopping = threading.Event()
        self._withdrawals: WithdrawalFollower | None = None
        if settings.registry is not None:
            connect = functools.partial(
                RegistryClient, settings.registry, credentials=settings.registry_credentials
            )
            self._withdrawals = WithdrawalFollower(self._engine, connect)
        self._threads = self._following_threads(settings)
        for thread in self._threads:
            thread.start()

    def build_http_app(self) -> FastAPI:
        """The HTTP app of this replica; call it once."""
        self._metrics.follow(
            self._engine,
            num_queued=lambda: self._batcher.num_queued,
            refreshed_at=lambda: self._refreshed_at,
            store_lost_at=self._lost_at,
            registry_lost_at=lambda: self._withdrawals.state.lost_at if self._withdrawals else None,
        )
        if self._log_requests:
            write_request_log()
        return build_api(
            self._engine,
            self._batcher,
            lambda: self._refreshed_at,
            metrics=self._metrics,
            searcher=self._searcher,
            tokens=self._tokens,
            log_requests=self._log_requests,
            tracing=self._tracing,
            feedback_store=self._feedback_store,
            embeddings=self._embeddings,
            store_lost_at=self._lost_at,
            receiver=self._receiver,
        )

    def check_health(self) -> None:
        """Raises ServingError: a thread has ended, so the replica no longer follows its source."""
        for thread in self._threads:
            if not thread.is_alive():
                raise ServingError(f"the thread that follows the {thread.name} has ended")

    def close(self) -> None:
        """End the threads and the engine; what still waits is not answered."""
        self._stopping.set()
        if self._withdrawals is not None:
            self._withdrawals.stop()
        self._batcher.close()
        self._engine.close()
        if self._keeper is not None:
            self._keeper.close()
        if self._tracing is not None:
            self._tracing.close()

    def refresh(self) -> None:
        """Follow the store once. An error is logged, and the live bundles stay live."""
        try:
            changed = self._engine.refresh()
        except Exception:  # the store may be back in a second
            _log.exception("refresh failed; live adapters stay as they are")
            return
        if not self._is_lost():
            self._refreshed_at = time.monotonic()
        self._metrics.refreshed(changed)
        if self._mirror is not None:
            for tenant in {tenant_of(key) for key in changed.loaded}:
                self._mirror.prune(tenant)
        for tenant in changed.loaded:
            found = self._engine.snapshot.find(tenant)
            if isinstance(found, AdapterDistillError):
                _log.error("tenant %s: not served: %s", tenant, found)
            else:
                bundle_id = found if isinstance(found, str) else found.bundle_id
                _log.info("tenant %s: adapter version %s is live", tenant, bundle_id[:12])
        if changed.known:
            _log.info("%d tenants are loaded when they are asked for", len(changed.known))
        for tenant in changed.dropped:
            _log.info("tenant %s: no longer live", tenant)
        _log_refused(changed)

    def _lost_at(self) -> float | None:
        """Monotonic time since when the store is out of reach; None: it is within reach."""
        return None if self._mirror is None else self._mirror.lost_at

    def _is_lost(self) -> bool:
        """Whether the store is out of reach. A change is logged once."""
        lost = self._lost_at() is not None
        if lost != self._said_lost and self._mirror is not None:
            self._said_lost = lost
            if lost:
                _log.error(
                    "%s is out of reach: this replica serves what it has, and takes up no change "
                    "until the store is back",
                    self._mirror.where,
                )
            else:
                _log.info("%s is within reach again", self._mirror.where)
        return lost

    def prove_next(self) -> None:
        """Prove one tenant in memory wholly. An error is logged, and the proof is tried again."""
        try:
            changed = self._engine.prove_next()
        except Exception:
            _log.exception("a proof failed, and not because of the adapter")
            return
        self._metrics.refreshed(changed)
        _log_refused(changed)

    def reload_tokens(self) -> None:
        """Read the token file if it changed. An error is logged; see `Tokens.reload`."""
        assert self._tokens is not None, "only a deployment with tokens follows their file"
        try:
            if self._tokens.reload():
                _log.info("the token file was read again")
        except Exception as error:  # its message may quote the file, unless it is ours
            told = error if isinstance(error, ConfigError) else type(error).__name__
            kept = (
                "the tokens read before stay valid"
                if self._tokens.open_to_somebody
                else "nobody may ask until there is one"
            )
            _log.error("token file refused; %s: %s", kept, told)

    def _following_threads(self, settings: ServeSettings) -> list[threading.Thread]:
        """One thread a source: a revoked token does not wait for bundles that are being loaded."""
        sources: dict[str, tuple[Callable[[], None], float]] = {
            "store": (self.refresh, settings.refresh_s),
            "proofs": (self.prove_next, PROVE_EVERY_S),
        }
        if self._tokens is not None:
            sources["tokens"] = (self.reload_tokens, settings.refresh_s)
        if settings.registry is not None and settings.registry_credentials is not None:
            renew = functools.partial(
                keep_renewed, settings.registry, settings.registry_credentials
            )
            sources["certificates"] = (renew, LOOK_EVERY_S)
        threads = [
            threading.Thread(target=self._follow, args=source, name=name, daemon=True)
            for name, source in sources.items()
        ]
        return threads if self._withdrawals is None else [*threads, self._withdrawals]

    def _follow(self, read: Callable[[], None], every_s: float) -> None:
        while not self._stopping.wait(every_s):
            read()


def collect_garbage_seldom() -> None:
    """Exempt the present objects from garbage collection, and search 100 times less often.

    A full search takes 0.1 to 0.2 s, and every request waits for it; under load one came every few
    seconds. A replica makes next to no garbage that is not freed at once.
    """
    gc.collect()
    gc.freeze()
    often, less_often, seldom = gc.get_threshold()
    gc.set_threshold(often, less_often, 100 * seldom)


def _log_refused(changed: Refresh) -> None:
    for tenant, error in changed.refused.items():
        _log.error("tenant %s: bundle refused [%s]: %s", tenant, error.reason, error)


def _tracing() -> "Tracing":
    from adapterdistill.serve.tracing import Tracing

    return Tracing.from_environment()
