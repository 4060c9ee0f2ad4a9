"""A retriever for LlamaIndex (`llama_index.core.retrievers.BaseRetriever`)."""

from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from adapterdistill.client import Client


class FaqRetriever(BaseRetriever):
    """Retrieves a tenant's FAQs, best first; none where the endpoint abstains."""

    def __init__(self, client: Client, *, top_k: int = 5) -> None:
        super().__init__()
        self._client, self._top_k = client, top_k

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        answer = self._client.search(query_bundle.query_str, top_k=self._top_k)
        if answer.abstained:
            return []
        return [
            NodeWithScore(
                node=TextNode(
                    id_=faq.faq_id,
                    text=faq.answer or faq.question,
                    metadata={"question": faq.question, "version": answer.version},
                ),
                score=faq.score,
            )
            for faq in answer.ranked
        ]
