"""Makes the differentially private adapter that is published in place of the served one."""

from collections.abc import Callable, Sequence
from pathlib import Path

from adapterdistill.actors.privacy.secret import derive_secret
from adapterdistill.actors.publishing import UNTRAINED, UNTRAINED_PRIVACY, describe
from adapterdistill.actors.records import Fetched
from adapterdistill.actors.training.stages import public_initialisation, untrained
from adapterdistill.backbone import Encoder
from adapterdistill.checkpoint import pack_adapter
from adapterdistill.config import OnboardConfig
from adapterdistill.distill.private.mixing import (
    Guarantee,
    mixed_student,
    private_shares,
    query_scores,
)
from adapterdistill.distill.rows import TenantRows
from adapterdistill.distill.stage import load_payload
from adapterdistill.manifest import Manifest

METHOD = "private_mixing"


def private_adapter(
    config: OnboardConfig,
    encoder: Encoder,
    rows: TenantRows,
    fetched: Fetched,
    file_of: Callable[[str], Path],
) -> tuple[Manifest, bytes]:
    """The private adapter and its manifest, which states the guarantee.

    Nothing else of the rows goes into either: no metrics, and no audit. Without teachers there is
    nothing to mix, and an untrained adapter stands for the tenant.

    Args:
        fetched: the teachers, which were chosen without the rows.
        file_of: payload file of a teacher.
    """
    teachers = fetched.teachers
    if not teachers:
        adapter = untrained(config, encoder)
        payload = pack_adapter(adapter, model_name=encoder.ref.name)
        return describe(
            config,
            encoder,
            payload,
            method=UNTRAINED,
            privacy=UNTRAINED_PRIVACY,
            init=public_initialisation(config, encoder),
        ), payload
    epsilon = config.privacy.epsilon
    assert epsilon is not None
    guarantee = Guarantee(epsilon, config.privacy.delta)
    loaded = [load_payload(file).to(encoder.device) for file in map(file_of, teachers)]
    scores = query_scores(encoder, loaded, rows.questions, rows.train)
    seed = int.from_bytes(derive_secret(config, "mixing", config.digest(), scores.tolist()))
    student = mixed_student(encoder, loaded, private_shares(scores, guarantee, seed=seed), steps=0)
    payload = pack_adapter(student.cpu(), model_name=encoder.ref.name)
    return describe(
        config,
        encoder,
        payload,
        method=METHOD,
        privacy=stated(guarantee, teachers),
        teachers=teachers,
        init=fetched.init,
    ), payload


def stated(guarantee: Guarantee, teachers: Sequence[str]) -> str:
    """The privacy statement of a private adapter."""
    return (
        f"Differentially private by mixing: epsilon {guarantee.epsilon:g}, delta "
        f"{guarantee.delta:g}. Unit: one labelled query of the training rows, added or removed; "
        "questions and answers of the FAQs are not covered. Mechanism: one Gaussian release of the "
        f"sum over queries of clipped scores of {len(teachers)} teachers, noise multiplier "
        f"{guarantee.noise:.4f}; sampling: none. Teachers were chosen without the rows, and the "
        "adapter was made of this release, the teachers and public texts alone. Its guarantee adds "
        "up with that of other versions of the same rows."
    )
