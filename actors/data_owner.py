"""The data owner: everything that touches a tenant's rows, on the node that holds them.

A plain class, tested without Ray; `actors.placement` makes it an actor on the owner's node. Stages
are idempotent: each keeps its result in the run's folder, and one that is done answers from there.
`actors.stages` lists the records that leave; adapters leave only through the registry's client.
"""

import time
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

import torch

from adapterdistill.actors.bundling import is_in_service, put_into_service, with_rollback
from adapterdistill.actors.judging import Judge, require_servable, write_suggestions
from adapterdistill.actors.live import live_version
from adapterdistill.actors.privacy.mixing import private_adapter
from adapterdistill.actors.privacy.secret import folds_seed, training_secret
from adapterdistill.actors.privacy.statement import require_private
from adapterdistill.actors.prototypes import keep_prototypes, kept_prototypes, own_prototypes
from adapterdistill.actors.publishing import (
    build_manifest,
    is_published,
    open_registry,
    publish_once,
    require_registry,
)
from adapterdistill.actors.records import (
    Bundled,
    Decided,
    Distilled,
    Evaluated,
    Extracted,
    Fetched,
    Published,
    StageResult,
    Validated,
    VariantMade,
)
from adapterdistill.actors.report.writing import keep_findings, reported_if_refused, write_report
from adapterdistill.actors.run_state import RunState
from adapterdistill.actors.stages import stage_of
from adapterdistill.actors.teachers import fetch_teachers, rows_to_choose_by
from adapterdistill.actors.tracking import Trackers
from adapterdistill.actors.training.stages import (
    average,
    distil,
    extract,
    make_variant,
    replaces_own_adapter,
    require_possible,
    untrained,
)
from adapterdistill.adapters import BottleneckAdapter
from adapterdistill.backbone import Encoder, load_configured
from adapterdistill.checkpoint import pack_adapter
from adapterdistill.config import OnboardConfig
from adapterdistill.data import TenantDataset
from adapterdistill.distill.folds import all_files
from adapterdistill.distill.rows import ROWS_FILE, TenantRows, count_cut, tokenise, write_rows
from adapterdistill.evaluation.readability import check_readable
from adapterdistill.evaluation.report import Choice, decide, decide_variant
from adapterdistill.evaluation.scorer import pack_scorer
from adapterdistill.files import keep_private, write_atomically, write_secret
from adapterdistill.manifest import Manifest, VersionRef

_SCORER, _VARIANT_SCORER = "scorer.safetensors", "form_scorer.safetensors"
_OWN, _AVERAGED, _DISTILLED = "own.safetensors", "averaged.safetensors", "distilled.safetensors"
_LIVE_MANIFEST, _VARIANT = "live_manifest.json", "form.safetensors"
R = TypeVar("R", bound=StageResult)


class DataOwner:
    """One tenant's run, on the owner's node. `promote` makes its bundle live in any case."""

    def __init__(
        self, config: OnboardConfig, *, promote: bool = False, trackers: Trackers = ()
    ) -> None:
        keep_private()
        self._config, self._promote, self._trackers = config, promote, trackers
        self._state: RunState | None = None

    def validate(self) -> Validated:
        """Open the tenant's folder, and the run's folder, named by that content and the config.

        Raises:
            DataError: the tenant's data break the format.
            ConfigError: the encoder, or the tasks, are not those that the method needs.
            UnreadableTextError: the encoder cannot read the FAQs.
        """
        started = time.perf_counter()
        data_sha256 = self._dataset.digest()
        require_possible(self._config, lambda: self._encoder, self._dataset.tasks)
        self._state = RunState.open(self._config, data_sha256, self._trackers)
        counts = self._dataset.counts()

        def work() -> Validated:
            require_registry(self._config)
            found = check_readable(self._dataset.faqs(), self._rows.index(), self._encoder)
            found.require()
            doubts = {"unread": len(found.unread), "alike": found.num_alike}
            return Validated(
                counts=counts | doubts,
                data_sha256=data_sha256,
                max_tokens=self._encoder.max_tokens,
                cut=count_cut(self._dataset, self._encoder.reader),
            )

        return self._opened().once(Validated, work, started=started)

    def fetch_teachers(self) -> Fetched:
        """Fetch the frozen adapters of other tenants that suit the own texts best."""

        def work() -> Fetched:
            with open_registry(self._config) as registry:
                if not self._config.registry.is_embedded:
                    registry.kept = self._folder.parents[1] / "listings"
                found = fetch_teachers(
                    registry,
                    self._encoder,
                    tenant=self._config.tenant,
                    rows=rows_to_choose_by(self._config, self._rows),
                    max_teachers=self._config.teachers.max_teachers,
                    language=self._config.teachers.language,
                )
            for name, payload in found.payloads.items():
                write_atomically(self._teacher_file(name), payload)
            keep_prototypes(self._folder, found.prototypes)
            return Fetched(
                teachers=tuple(found.payloads),
                payload_bytes=sum(map(len, found.payloads.values())),
                init=found.init,
                refused=found.refused,
                listed=found.listed,
            )

        return self._opened().once(Fetched, work)

    def extract(self) -> Extracted:
        """Stage 1: the own rows train the own adapter, unless none are labelled or teachers do."""
        fetched = self._done(Fetched)

        def work() -> Extracted:
            write_rows(self._folder / ROWS_FILE, self._rows.stage())
            few = self._rows.folds is not None
            if not self._rows.train.ids:
                return Extracted(trained=False, untrained_because="nothing is labelled")
            if few and replaces_own_adapter(self._config, teachers=len(fetched.teachers)):
                return Extracted(trained=False, untrained_because="teachers make up for it")
            return extract(
                self._config,
                self._encoder,
                rows=self._folder / ROWS_FILE,
                adapter=self._folder / _OWN,
                few=few,
                secret=self._secret,
            )

        return self._opened().once(Extracted, work)

    def distil(self) -> Distilled:
        """Stage 2: average the teachers, and train the student from there or from the own."""
        fetched, extracted = self._done(Fetched), self._done(Extracted)

        def work() -> Distilled:
            if not fetched.teachers:
                return Distilled(trained=False)
            teachers = {name: self._teacher_file(name) for name in fetched.teachers}
            averaged, shares = average(
                self._encoder, teachers, self._rows.stage().train, secret=self._secret
            )
            return distil(
                self._config,
                self._encoder,
                rows=self._folder / ROWS_FILE,
                adapter=self._folder / _DISTILLED,
                own=self._folder / _OWN if extracted.trained else None,
                labelled=bool(self._rows.train.ids),
                average=self._write_for_all_folds("averaged", self._packed(averaged)),
                shares=shares,
                teachers=teachers,
                secret=self._secret,
            )

        return self._opened().once(Distilled, work)

    def evaluate(self) -> Evaluated:
        """Let the candidates compete: on held-out rows to decide, on test rows for the record."""
        self._done(Distilled)

        def work() -> Evaluated:
            live, teachers = live_version(self._config, self._encoder), self._done(Fetched).teachers
            found = self._judge.evaluate(self._candidates(), teachers=len(teachers), live=live)
            if live is not None:
                self._write_for_all_folds("live", live.payload)
                write_atomically(self._folder / _LIVE_MANIFEST, live.manifest.canonical_json())
            write_secret(self._folder / _SCORER, pack_scorer(found.scorer))
            keep_findings(self._opened(), found.findings)
            write_suggestions(self._config, found.perhaps_out_of_scope)
            return found.record

        return self._opened().once(Evaluated, work)

    def decide(self) -> Decided:
        """Decide which candidate is published and served."""
        found = self._done(Evaluated)

        def work() -> Decided:
            verdict = decide(found.candidates, found.choice, rows=found.rows)
            return Decided(choice=verdict.choice, reason=verdict.reason)

        return self._opened().once(Decided, work)

    def publish(self) -> Published:
        """Publish the chosen adapter and its manifest. Nothing else goes to the registry."""

        def work() -> Published:
            payload, choice = self._chosen_payload(), self._done(Decided).choice
            found, fetched = self._done(Evaluated), self._done(Fetched)
            if choice == "live":
                manifest = Manifest.from_json((self._folder / _LIVE_MANIFEST).read_bytes())
            else:
                require_private(self._config, choice, found.membership)
                manifest = build_manifest(
                    self._config,
                    self._encoder,
                    payload,
                    choice=choice,
                    metrics=found.candidates[choice].held_out,
                    teachers=fetched.teachers,
                    membership=found.membership,
                    prototypes=own_prototypes(self._config, self._encoder, self._dataset.tasks()),
                    taught_from=fetched.init,
                )
            # What others see may be another adapter than the one that is served.
            shown = manifest, payload
            if choice != "live" and self._config.privacy.epsilon is not None:
                shown = private_adapter(
                    self._config, self._encoder, self._rows, fetched, self._teacher_file
                )
            published, state = publish_once(self._config, *shown)
            served = published if shown[0] is manifest else manifest
            write_atomically(self._folder / "manifest.json", served.canonical_json())
            return Published(
                name=published.ref.name,
                payload_bytes=len(shown[1]),
                metrics=published.metrics,
                quarantined=state == "quarantined",
            )

        return self._opened().once(
            Published,
            work,
            # An operator may have released it from quarantine since.
            still_true=lambda kept: not kept.quarantined and is_published(self._config, kept.name),
        )

    def variant(self) -> VariantMade:
        """Train the method's variant of the chosen adapter, to be served if it ranks as well.

        Nothing is trained where no row is held out: the variant could not be shown to be as good.
        """
        self._done(Published)

        def work() -> VariantMade:
            config, kind = self._config.variant, self._config.training.method
            if config is None or not self._done(Evaluated).rows:
                verdict = decide_variant(None, None if config is None else kind)
                return VariantMade(trained=False, **verdict.model_dump())
            files = adapter, variant = self._folder / self._chosen, self._folder / _VARIANT
            trained = make_variant(
                self._config,
                self._encoder,
                rows=self._folder / ROWS_FILE,
                adapter=adapter,
                variant=variant,
                tasks=self._dataset.tasks(),
                prototypes=() if self._config.noise is None else kept_prototypes(self._folder),
            )
            made, scorer = self._judge.decide_on_variant(trained, *files, kind, config.most_lost)
            write_secret(self._folder / _VARIANT_SCORER, pack_scorer(scorer))
            return made

        return self._opened().once(VariantMade, work)

    def bundle(self) -> Bundled:
        """Write the serving bundle, with the private FAQ index, to the tenant's own store."""
        made = self._done(VariantMade)
        with reported_if_refused(self._opened(), self._config.tenant):
            require_servable(self._done(Published), self._done(Evaluated))

        def work() -> Bundled:
            evaluated, variant = self._done(Evaluated), None
            scorer = self._folder / _SCORER
            threshold, calibration = evaluated.threshold, evaluated.calibration
            if made.served != "adapter":
                assert made.threshold is not None
                variant = (self._folder / _VARIANT).read_bytes()
                scorer = self._folder / _VARIANT_SCORER
                threshold, calibration = made.threshold, made.calibration
            return put_into_service(
                self._config,
                self._encoder,
                manifest=Manifest.from_json((self._folder / "manifest.json").read_bytes()),
                payload=self._chosen_payload(),
                variant_payload=variant,
                scorer=scorer.read_bytes(),
                faqs=self._dataset.faqs(),
                threshold=threshold,
                calibration=calibration,
                promote=self._promote,
            )

        still = partial(is_in_service, self._config, promote=self._promote)
        bundled = self._opened().once(Bundled, work, still_true=still)
        write_report(self._opened(), self._config.tenant)
        return with_rollback(self._config, bundled)

    # What follows stays on the owner's node.

    def _opened(self) -> RunState:
        if self._state is None:
            self.validate()
        assert self._state is not None
        return self._state

    def _done(self, kind: type[R]) -> R:
        """The result of an earlier stage; if it is missing, the stages up to it are run."""
        kept = self._opened().result(kind)
        if kept is not None:
            return kept
        result = getattr(self, stage_of(kind).name)()
        assert isinstance(result, kind)
        return result

    @property
    def _folder(self) -> Path:
        return self._opened().folder

    def _teacher_file(self, name: str) -> Path:
        return self._folder / "teachers" / f"{VersionRef.parse(name).version}.safetensors"

    @cached_property
    def _dataset(self) -> TenantDataset:
        return TenantDataset.open(Path(self._config.data))

    @cached_property
    def _encoder(self) -> Encoder:
        torch.set_num_threads(self._config.training.threads)
        return load_configured(self._config.encoder)

    @cached_property
    def _rows(self) -> TenantRows:
        return tokenise(
            self._dataset,
            self._encoder,
            seed=folds_seed(self._config, self._secret),
            held_out_fraction=self._config.training.held_out_fraction,
        )

    @cached_property
    def _secret(self) -> str | None:
        return training_secret(self._config, self._dataset.digest())

    @property
    def _judge(self) -> Judge:
        seed = folds_seed(self._config, self._secret)
        return Judge(self._encoder, self._dataset, self._rows, self._config, seed=seed)

    def _candidates(self) -> dict[Choice, Path]:
        """The payload files of the candidates, by name; the folds' lie beside them."""
        found: dict[Choice, Path] = {}
        extracted, distilled = self._done(Extracted), self._done(Distilled)
        if distilled.trained:
            found["distilled"] = self._folder / _DISTILLED
        if extracted.trained:
            found["own"] = self._folder / _OWN
        if distilled.trained and self._rows.train.ids:
            found["averaged"] = self._folder / _AVERAGED
        bare = untrained(self._config, self._encoder)
        found["bare"] = self._write_for_all_folds("bare", self._packed(bare))
        return found

    def _packed(self, adapter: BottleneckAdapter) -> bytes:
        return pack_adapter(adapter, model_name=self._encoder.ref.name)

    def _write_for_all_folds(self, name: Choice, payload: bytes) -> Path:
        """Write an adapter that the folds did not train: the same payload serves every fold."""
        file = self._folder / f"{name}.safetensors"
        for one in all_files(file, self._rows.num_folds):
            write_atomically(one, payload)
        return file

    @property
    def _chosen(self) -> str:
        return f"{self._done(Decided).choice}.safetensors"

    def _chosen_payload(self) -> bytes:
        return (self._folder / self._chosen).read_bytes()
