"""A retriever for Haystack, a component with the input `query` and the output `documents`."""

from haystack import Document, component

from adapterdistill.client import Client


@component
class FaqRetriever:
    """Retrieves a tenant's FAQs, best first; none where the endpoint abstains."""

    def __init__(self, client: Client, *, top_k: int = 5) -> None:
        self.client, self.top_k = client, top_k

    @component.output_types(documents=list[Document])
    def run(self, query: str, top_k: int | None = None) -> dict[str, list[Document]]:
        """Raises SearchError."""
        answer = self.client.search(query, top_k=top_k or self.top_k)
        if answer.abstained:
            return {"documents": []}
        return {
            "documents": [
                Document(
                    id=faq.faq_id,
                    content=faq.answer or faq.question,
                    meta={"question": faq.question, "version": answer.version},
                    score=faq.score,
                )
                for faq in answer.ranked
            ]
        }
