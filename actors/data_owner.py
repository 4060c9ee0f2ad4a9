"""The data owner: everything that touches a tenant's rows, on the node that holds them.

A plain class, tested without Ray; `data_owner_actor()` wraps it. Stages are idempotent: each
keeps its result in the run's folder, and a stage that was done is answered from there. What
leaves is listed in `actors.records`; adapters leave only through the registry's client.
"""

import shutil
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from actors.records import (
    Bundled,
    Decided,
    Distilled,
    Evaluated,
    Extracted,
    Fetched,
    Published,
    StageResult,
    Trained,
    Validated,
)
from actors.run_state import RunState
from actors.train_loop import (
    Outcome,
    TrainWorkers,
    peak_rss_mb,
    train_in_place,
    train_on_workers,
    write_atomically,
)
from adapterdistill import bundle as bundles
from adapterdistill.adapters import BottleneckAdapter
from adapterdistill.backbone import Encoder, load_encoder
from adapterdistill.checkpoint import (
    golden_vectors,
    pack_adapter,
    prove_active,
    tensor_specs,
    unpack_adapter,
)
from adapterdistill.config import OnboardConfig
from adapterdistill.data import TenantDataset
from adapterdistill.distill.held_out import HeldOutRows
from adapterdistill.distill.stage import StageSpec, load_payload, write_rows
from adapterdistill.distill.training import Schedule
from adapterdistill.errors import EncoderMismatchError
from adapterdistill.evaluation.evaluate import abstention_threshold, build_index, rank_queries
from adapterdistill.evaluation.report import Comparison, compare, decide
from adapterdistill.evaluation.rows import TenantRows, in_scope, tokenise
from adapterdistill.manifest import Manifest, VersionRef, sha256_hex
from adapterdistill.registry.client import RegistryClient

PRIVACY = (
    "Trained on the owner's rows on the owner's node; rows were not shared. No differential "
    "privacy: the weights may reveal something of the rows."
)
_OWN, _DISTILLED = "own.safetensors", "distilled.safetensors"
R = TypeVar("R", bound=StageResult)


class DataOwner:
    """One tenant's run. Construct it on the owner's node."""

    def __init__(self, config: OnboardConfig) -> None:
        self._config = config
        self._state: RunState | None = None

    def validate(self) -> Validated:
        """Open the tenant's folder; the run's folder is named by its content and the config."""
        started = time.perf_counter()
        data_sha256 = self._dataset.digest()
        self._state = RunState.open(self._config, data_sha256)
        counts = self._dataset.counts()

        def work() -> Validated:
            return Validated(counts=counts, data_sha256=data_sha256)

        return self._stage(Validated, work, started=started)

    def extract(self) -> Extracted:
        """Stage 1: the own rows train the own adapter. Nothing to train without labelled rows."""

        def work() -> Extracted:
            write_rows(self._rows_file, self._rows.stage())
            t = self._config.training
            if not self._rows.train.ids:
                untrained = BottleneckAdapter.new(
                    self._encoder.num_layers,
                    self._encoder.hidden_size,
                    t.bottleneck_size,
                    seed=t.seed,
                )
                payload = pack_adapter(untrained, model_name=self._encoder.ref.name)
                write_atomically(self._folder / _OWN, payload)
                return Extracted(trained=False)
            spec = StageSpec(
                rows=str(self._rows_file),
                bottleneck_size=t.bottleneck_size,
                schedule=self._schedule(t.extract_steps, t.extract_learning_rate),
                seed=t.seed,
            )
            return Extracted(**self._train("extract", spec, self._folder / _OWN))

        return self._stage(Extracted, work)

    def fetch_teachers(self) -> Fetched:
        """Frozen adapters of other tenants on the same encoder, from the registry."""

        def work() -> Fetched:
            names, total = [], 0
            with self._registry() as registry:
                for manifest in self._choose_teachers(registry):
                    _, payload = registry.fetch(manifest.ref, encoder=self._encoder.ref)
                    prove_active(self._encoder, unpack_adapter(payload), manifest.golden)
                    write_atomically(self._teacher_file(manifest.ref.name), payload)
                    names.append(manifest.ref.name)
                    total += len(payload)
            return Fetched(teachers=tuple(names), payload_bytes=total)

        return self._stage(Fetched, work)

    def distil(self) -> Distilled:
        """Stage 2: the teachers' knowledge into the student, which starts from the own adapter."""
        fetched, extracted = self._done(Fetched), self._done(Extracted)

        def work() -> Distilled:
            if not fetched.teachers:
                return Distilled(trained=False)
            t = self._config.training
            spec = StageSpec(
                rows=str(self._rows_file),
                bottleneck_size=t.bottleneck_size,
                schedule=self._schedule(t.distil_steps, t.distil_learning_rate),
                seed=t.seed,
                initial=str(self._folder / _OWN) if extracted.trained else None,
                teachers=tuple(str(self._teacher_file(name)) for name in fetched.teachers),
            )
            return Distilled(**self._train("distil", spec, self._folder / _DISTILLED))

        return self._stage(Distilled, work)

    def evaluate(self) -> Evaluated:
        """Own against distilled, on held-out rows for the verdict, on test rows for the record."""
        distilled = self._done(Distilled)

        def work() -> Evaluated:
            if not distilled.trained:
                own = self._load(_OWN)
                return Evaluated(held_out=self._compare(own, own, "held"), test=self._compare(own, own, "test"))
            pair = self._load(_OWN), self._load(_DISTILLED)
            return Evaluated(
                held_out=self._compare(*pair, "held"), test=self._compare(*pair, "test")
            )

        return self._stage(Evaluated, work)

    def decide(self) -> Decided:
        """Which of the two is published."""
        verdict = decide(
            self._done(Evaluated).held_out,
            has_own=self._done(Extracted).trained,
            has_distilled=self._done(Distilled).trained,
        )
        return self._stage(Decided, lambda: Decided(choice=verdict.choice, reason=verdict.reason))

    def publish(self) -> Published:
        """The chosen adapter and its manifest to the registry. Nothing else goes there."""

        def work() -> Published:
            payload = self._chosen_payload()
            manifest = self._manifest(payload)
            with self._registry() as registry:
                registry.publish(manifest, payload)
            write_atomically(self._folder / "manifest.json", manifest.canonical_json())
            return Published(
                name=manifest.ref.name, payload_bytes=len(payload), metrics=manifest.metrics
            )

        return self._stage(Published, work)

    def bundle(self) -> Bundled:
        """The adapter with the private FAQ index into the tenant's own serving store, live."""
        self._done(Published)

        def work() -> Bundled:
            payload = self._chosen_payload()
            adapter, rows = unpack_adapter(payload), self._rows
            vectors, faq_of_vector = build_index(
                self._encoder, adapter, rows.index(), rows.num_faqs
            )
            ranking = rank_queries(
                self._encoder, adapter, rows.stage().held_index, rows.held, rows.num_faqs
            )
            threshold = abstention_threshold(ranking)
            store = Path(self._config.serving_store)
            folder = bundles.write_bundle(
                store,
                bundles.Bundle(
                    manifest=Manifest.from_json((self._folder / "manifest.json").read_bytes()),
                    adapter_payload=payload,
                    faqs=self._dataset.faqs(),
                    vectors=vectors,
                    faq_of_vector=faq_of_vector,
                    threshold=threshold,
                ),
            )
            bundles.set_live(store, self._config.tenant, folder.name)
            return Bundled(bundle=folder.name, threshold=threshold, index_vectors=len(vectors))

        return self._stage(Bundled, work)

    # What follows stays on the owner's node.

    def _stage(
        self, kind: type[R], work: Callable[[], R], *, started: float | None = None
    ) -> R:
        """The stage's kept result, or `work()`, timed and kept."""
        state = self._opened()
        kept = state.result(kind)
        if kept is not None:
            return kept
        started = time.perf_counter() if started is None else started
        result = work()
        seconds = round(time.perf_counter() - started, 3)
        return state.keep(
            result.model_copy(update={"seconds": seconds, "peak_rss_mb": peak_rss_mb()})
        )

    def _opened(self) -> RunState:
        if self._state is None:
            self.validate()
        assert self._state is not None
        return self._state

    def _done(self, kind: type[R]) -> R:
        """The result of an earlier stage, running the stages up to it where it is missing."""
        kept = self._opened().result(kind)
        if kept is not None:
            return kept
        stages: dict[type[StageResult], Callable[[], Any]] = {
            Extracted: self.extract,
            Fetched: self.fetch_teachers,
            Distilled: self.distil,
            Evaluated: self.evaluate,
            Decided: self.decide,
            Published: self.publish,
        }
        result = stages[kind]()
        assert isinstance(result, kind)
        return result

    @property
    def _folder(self) -> Path:
        return self._opened().folder

    @property
    def _rows_file(self) -> Path:
        return self._folder / "rows.safetensors"

    def _teacher_file(self, name: str) -> Path:
        return self._folder / "teachers" / f"{VersionRef.parse(name).version}.safetensors"

    @cached_property
    def _dataset(self) -> TenantDataset:
        return TenantDataset.open(Path(self._config.data))

    @cached_property
    def _encoder(self) -> Encoder:
        return load_encoder(**self._config.encoder.model_dump())

    @cached_property
    def _rows(self) -> TenantRows:
        t = self._config.training
        return tokenise(
            self._dataset, self._encoder, seed=t.seed, held_out_fraction=t.held_out_fraction
        )

    def _registry(self) -> RegistryClient:
        config = self._config.registry
        return RegistryClient(config.resolve(), timeout_s=config.timeout_s)

    def _schedule(self, steps: int, learning_rate: float) -> Schedule:
        t = self._config.training
        return Schedule(
            max_steps=steps,
            learning_rate=learning_rate,
            batch_size=t.batch_size,
            evaluate_every=t.evaluate_every,
            patience=t.patience,
        )

    def _train(self, name: str, spec: StageSpec, adapter: Path) -> dict[str, Any]:
        t = self._config.training
        if t.num_workers == 0:
            outcome = train_in_place(spec, self._encoder, adapter=adapter, progress=_printer(name))
        else:
            outcome = self._train_on_workers(spec, adapter)
        return {
            "trained": True,
            "best_step": outcome.best_step,
            "steps": outcome.steps,
            "held_out_score": outcome.held_out_score,
            "adapter_sha256": sha256_hex(adapter.read_bytes()),
            "training_peak_rss_mb": outcome.peak_rss_mb,
        }

    def _train_on_workers(self, spec: StageSpec, adapter: Path) -> Outcome:
        t = self._config.training
        folder = self._folder / "ray_train"
        outcome = train_on_workers(
            spec,
            self._config.encoder.model_dump(),
            adapter=adapter,
            run_folder=folder,
            workers=TrainWorkers(
                t.num_workers, t.use_gpu, self._config.placement.resource, t.start_timeout_s
            ),
        )
        shutil.rmtree(folder, ignore_errors=True)
        return outcome

    def _choose_teachers(self, registry: RegistryClient) -> list[Manifest]:
        """The newest adapter of each other tenant on this encoder, at most `max_teachers`."""
        wanted = self._config.teachers.max_teachers
        listed = registry.list(encoder=self._encoder.ref, exclude_tenant=self._config.tenant)
        chosen: list[Manifest] = []
        for manifest in listed:
            if len(chosen) == wanted:
                break
            if not manifest.encoder.same_as(self._encoder.ref):
                raise EncoderMismatchError(f"{manifest.ref.name} belongs to another encoder")
            chosen.append(manifest)
        return sorted(chosen, key=lambda m: m.ref.name)

    def _load(self, file: str) -> BottleneckAdapter:
        return load_payload(str(self._folder / file))

    def _compare(
        self, own: BottleneckAdapter, distilled: BottleneckAdapter, part: str
    ) -> Comparison | None:
        rows, encoder = self._rows, self._encoder
        queries = rows.held if part == "held" else rows.test
        # Held-out rows that came from training must not be in the index that ranks them.
        index = rows.stage().held_index if part == "held" else rows.index()
        if not in_scope(queries).ids:
            return None
        held = HeldOutRows(encoder, index, in_scope(queries), rows.num_faqs)
        return compare(
            rank_queries(encoder, own, index, queries, rows.num_faqs),
            rank_queries(encoder, distilled, index, queries, rows.num_faqs),
            own_score=held(own),
            distilled_score=held(distilled),
        )

    def _chosen_payload(self) -> bytes:
        file = _OWN if self._done(Decided).choice == "own" else _DISTILLED
        return (self._folder / file).read_bytes()

    def _manifest(self, payload: bytes) -> Manifest:
        config, choice = self._config, self._done(Decided).choice
        adapter = unpack_adapter(payload)
        held_out = self._done(Evaluated).held_out
        metrics = {} if held_out is None else getattr(held_out, choice)
        return Manifest(
            tenant=config.tenant,
            adapter=config.adapter,
            version=sha256_hex(payload),
            payload_bytes=len(payload),
            kind="bottleneck",
            encoder=self._encoder.ref,
            tensors=tensor_specs(adapter),
            method="own_adapter" if choice == "own" else config.training.method,
            config_sha256=config.digest(),
            seed=config.training.seed,
            metrics={f"held_out_{name}": metric for name, metric in metrics.items()},
            teachers=() if choice == "own" else self._done(Fetched).teachers,
            privacy=PRIVACY,
            golden=golden_vectors(self._encoder, adapter),
        )


def _printer(stage: str) -> Callable[[int, int, float, float | None], None]:
    """Progress lines at each held-out score: numbers only, they reach the job's log."""

    def line(step: int, steps: int, loss: float, score: float | None) -> None:
        if score is not None or step == steps or step == 1:
            scored = "" if score is None else f", held-out score {score:.4f}"
            print(f"{stage}: step {step}/{steps}, loss {loss:.4f}{scored}", flush=True)

    return line
