"""What a manifest says of its rows' privacy, and when nothing is published for it."""

from adapterdistill.config import OnboardConfig
from adapterdistill.errors import RevealsRowsError
from adapterdistill.evaluation.membership import Attack, Membership
from adapterdistill.evaluation.report import Choice
from adapterdistill.manifest import Metric

_TELLS: dict[Attack, str] = {
    "loss": "their loss",
    "loss_difference": "their loss less the public encoder's",
    "similarity": "their similarity to the other rows",
}
NOT_AUDITED = (
    " Membership was not audited: too few rows were held out of FAQs that others trained, or none "
    "were."
)


def membership_stated(found: Membership | None) -> str:
    """The audit as a sentence of the privacy statement, with a space before it."""
    if found is None:
        return NOT_AUDITED
    return (
        f" Membership audit: rows trained on are told from held-out rows of the same FAQs by "
        f"{_TELLS[found.attack]} with AUC {found.auc:.3f} (0.5 is a guess), 95% interval "
        f"{found.low:.3f} to {found.high:.3f}, on {found.rows} rows."
    )


def membership_metrics(found: Membership | None) -> dict[str, Metric]:
    """The audit as the manifest's two numbers; none where there is none."""
    if found is None:
        return {}
    return {
        "membership_auc": Metric(value=found.auc, count=found.rows),
        "membership_auc_high": Metric(value=found.high, count=found.rows),
    }


def require_private(config: OnboardConfig, choice: Choice, found: Membership | None) -> None:
    """Check that what is published reveals no more of its rows than the owner accepts.

    Raises:
        RevealsRowsError: the audit exceeds `privacy.max_membership_auc`, or could not be made.
    """
    limit = config.privacy.max_membership_auc
    if limit is None or choice in ("bare", "live"):
        return
    if found is None:
        raise RevealsRowsError(
            f"not published: privacy.max_membership_auc = {limit:g} needs a membership audit, and "
            "too few rows are held out of FAQs that others trained: add labelled queries, some of "
            "split valid, or leave the limit out"
        )
    if found.auc > limit:
        raise RevealsRowsError(
            f"not published: rows trained on are told from others with AUC {found.auc:.3f} "
            f"({found.low:.3f} to {found.high:.3f}), over privacy.max_membership_auc = {limit:g}; "
            "what was live stays live. Train for fewer steps, bring more queries an FAQ, set "
            "privacy.epsilon, or raise the limit"
        )
