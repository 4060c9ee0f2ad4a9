"""A retriever for LangChain (`langchain_core.retrievers.BaseRetriever`)."""

from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForRetrieverRun,
)
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import ConfigDict

from adapterdistill.client import Answer, AsyncClient, Client


class FaqRetriever(BaseRetriever):
    """Retrieves a tenant's FAQs, best first; none where the endpoint abstains."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    client: Client
    async_client: AsyncClient | None = None
    """For `ainvoke`; None: `client` is asked in a thread."""
    top_k: int = 5

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        return _documents(self.client.search(query, top_k=self.top_k))

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun
    ) -> list[Document]:
        if self.async_client is None:
            return await super()._aget_relevant_documents(query, run_manager=run_manager)
        return _documents(await self.async_client.search(query, top_k=self.top_k))


def _documents(answer: Answer) -> list[Document]:
    if answer.abstained:
        return []
    return [
        Document(
            id=faq.faq_id,
            page_content=faq.answer or faq.question,
            metadata={
                "faq_id": faq.faq_id,
                "question": faq.question,
                "score": faq.score,
                "version": answer.version,
            },
        )
        for faq in answer.ranked
    ]
