"""A custom action for Rasa (`rasa_sdk.Action`) that answers from a tenant's FAQs.

Make a subclass in the action server's `actions.py`:

    class AnswerFaq(FaqAction):
        client = AsyncClient("127.0.0.1:8000", tenant="acme", token_file="acme.token")
"""

from typing import Any, ClassVar

from rasa_sdk import Action, Tracker
from rasa_sdk.executor import CollectingDispatcher

from adapterdistill.client import AsyncClient


class FaqAction(Action):
    """Utters the answer of the best FAQ, or the response `fallback` where none fits."""

    client: ClassVar[AsyncClient]
    fallback: ClassVar[str] = "utter_default"
    """A response of the domain."""

    def name(self) -> str:
        return "action_answer_faq"

    async def run(
        self, dispatcher: CollectingDispatcher, tracker: Tracker, domain: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """Raises SearchError."""
        text = tracker.latest_message.get("text") or ""
        best = (await self.client.search(text, top_k=1)).best if text.strip() else None
        if best is None:
            dispatcher.utter_message(response=self.fallback)
        else:
            dispatcher.utter_message(text=best.answer or best.question)
        return []
