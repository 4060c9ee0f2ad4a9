"""An owner's pages of questions: those that were kept, to label; and a box to ask one."""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING, Literal, NamedTuple

from fastapi import APIRouter, Request
from fastapi.responses import Response

from adapterdistill.client import Answer, Client
from adapterdistill.console.owner import Owner
from adapterdistill.console.pages import HTMX, Pages, see
from adapterdistill.data import Faq
from adapterdistill.errors import ConfigError, NotFoundError
from adapterdistill.feedback import Question, keeps, opened, take_into
from adapterdistill.labelling import nearest
from adapterdistill.store.bundle import Place, read_bundle
from adapterdistill.store.release import has_release

if TYPE_CHECKING:
    from adapterdistill.library import Model

SHOWN = 10
"""Questions of one page."""
TOP_K = 5
MOST_CHARACTERS = 2000
_OUT_OF_SCOPE = ""
Alias = Literal["live", "canary"]
_ALIASES: dict[str, Alias] = {"live": "live", "canary": "canary"}
_loading = Lock()


class Asked(NamedTuple):
    """A kept question with the FAQs to choose from."""

    key: str
    """Its digest: a form would change the ends of its lines."""
    question: Question
    offered: list[Faq]


def add_questions(router: APIRouter, owner: Owner, pages: Pages) -> None:
    """Add the pages of kept questions, and the box to ask."""

    @router.get("/questions")
    def tenants(request: Request) -> Response:
        counts = [(tenant, *_counts(owner, tenant)) for tenant in owner.tenants()]
        return pages.page(request, "questions", tenants=counts)

    @router.get("/questions/{tenant}")
    def kept(request: Request, tenant: str, done: str = "", added: str = "") -> Response:
        owner.require(tenant)
        faqs, waiting, labelled = _kept(owner, tenant)
        shown = [
            Asked(_key(one.text), one, nearest(one.text, faqs) if faqs else [])
            for one in waiting[:SHOWN]
        ]
        return pages.page(
            request,
            "label",
            tenant=tenant,
            shown=shown,
            faqs=faqs,
            waiting=len(waiting),
            labelled=labelled,
            data=owner.data,
            done=_done(done, added),
        )

    @router.post("/questions/{tenant}/label")
    def label(request: Request, tenant: str) -> Response:
        """What `adapterdistill feedback label` does with one question."""
        owner.require(tenant)
        form = request.scope["form"]
        faqs, waiting, _ = _kept(owner, tenant)
        asked = form.get("question")
        text = next((one.text for one in waiting if _key(one.text) == asked), None)
        if text is None:
            raise NotFoundError("this question is no longer kept, or it has a label already")
        right = form.get("right", "")
        if right == "none":
            chosen = _OUT_OF_SCOPE
        elif right.startswith("faq:") and right[4:] in {faq.faq_id for faq in faqs}:
            chosen = right[4:]
        else:
            raise ConfigError("choose the FAQ that answers the question, or that none does")
        with opened(owner.store, tenant) as feedback:
            feedback.tell(text, right=chosen)
        return see(f"/questions/{tenant}?done=label")

    @router.post("/questions/{tenant}/export")
    def export(tenant: str) -> Response:
        """What `adapterdistill feedback export` does."""
        owner.require(tenant)
        if owner.data is None:
            raise ConfigError("the console was started without the run's TOML: give --config")
        with opened(owner.store, tenant) as feedback:
            added = take_into(feedback, owner.data)
        return see(f"/questions/{tenant}?done=export&added={added.labelled + added.unlabelled}")

    @router.get("/ask")
    def ask_whom(request: Request) -> Response:
        return pages.page(request, "ask", tenants=_askable(owner), serving=owner.serving)

    @router.post("/ask")
    def ask(request: Request) -> Response:
        form = request.scope["form"]
        tenant, text = form.get("tenant", ""), form.get("question", "").strip()
        owner.require(tenant)
        if not text or len(text) > MOST_CHARACTERS:
            raise ConfigError(f"a question has 1 to {MOST_CHARACTERS} characters")
        answer = _answer(owner, tenant, text, _ALIASES.get(form.get("alias", "")))
        values = {"answer": answer, "asked": text, "tenant": tenant}
        if HTMX in request.headers:
            return pages.page(request, "answer_part", **values)
        return pages.page(request, "answer", **values)


def _counts(owner: Owner, tenant: str) -> tuple[int, int]:
    """Numbers of kept questions without and with a label."""
    if not keeps(owner.store, tenant):
        return 0, 0
    with opened(owner.store, tenant) as feedback:
        kept = feedback.questions()
    waiting = sum(one.label is None for one in kept)
    return waiting, len(kept) - waiting


def _kept(owner: Owner, tenant: str) -> tuple[Sequence[Faq], list[Question], int]:
    """The live bundle's FAQs, the questions without a label, and the number of labelled ones."""
    release = owner.release(tenant)
    if release is None or not keeps(owner.store, tenant):
        return [], [], 0
    faqs = _faqs(owner.store, tenant, release.bundle)
    with opened(owner.store, tenant) as feedback:
        kept = feedback.questions()
    waiting = [one for one in kept if one.label is None]
    return faqs, waiting, len(kept) - len(waiting)


@lru_cache(maxsize=4)
def _faqs(store: Place, tenant: str, bundle_id: str) -> Sequence[Faq]:
    """The FAQs of a bundle, which never changes."""
    return read_bundle(store, tenant, bundle_id).faqs


def _key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _done(done: str, added: str) -> str:
    if done == "label":
        return "The label is kept."
    if done == "export" and added.isdecimal():
        return f"{added} questions were added to the data. Onboard again to learn from them."
    return ""


def _askable(owner: Owner) -> list[str]:
    """The tenants that something answers for."""
    return [tenant for tenant in owner.tenants() if has_release(owner.store, tenant)]


def _answer(owner: Owner, tenant: str, text: str, alias: Alias | None) -> Answer:
    """The answer of the endpoint, or without one that of the bundle in this process.

    Without an alias the endpoint chooses, as for any user: a shadow is asked, too.
    """
    if owner.serving is not None:
        with Client(owner.serving, tenant, token=owner.token) as client:
            return client.search(text, top_k=TOP_K, explain=True, alias=alias)
    release = owner.release(tenant)
    if release is None:
        raise NotFoundError(f"nothing is live for tenant {tenant}")
    bundle_id = release.bundle
    if alias == "canary":
        if release.candidate is None:
            raise NotFoundError(f"tenant {tenant} has no candidate")
        bundle_id = release.candidate.bundle
    with _loading:  # one load at a time: an encoder takes a hundred megabytes
        model = _model(owner, tenant, bundle_id)
        return model.search(text, top_k=TOP_K, explain=True)


@lru_cache(maxsize=2)
def _model(owner: Owner, tenant: str, bundle_id: str) -> "Model":
    from adapterdistill.library import load_from

    return load_from(
        owner.store, tenant, bundle_id, encoder=owner.encoder, dtype=owner.dtype, device="cpu"
    )
