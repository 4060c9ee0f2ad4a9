"""Every example of the OpenAPI description is a message that the endpoint takes or sends."""

from adapterdistill.errors import error_classes
from adapterdistill.serve.http import openapi
from adapterdistill.serve.http.feedback import FeedbackRequest
from adapterdistill.serve.http.schema import SearchRequest, SearchResponse


def test_every_example_of_the_description_is_sound() -> None:
    for request, examples in (
        (SearchRequest, openapi.SEARCH_EXAMPLES),
        (FeedbackRequest, openapi.FEEDBACK_EXAMPLES),
    ):
        for example in examples.values():
            request.model_validate(example["value"])
    explained = {"results": {"__all__": {"decided_by": True, "ranked": {"__all__": {"views"}}}}}
    answer = SearchResponse.model_validate(openapi.ANSWER_EXAMPLE)
    assert answer.model_dump(exclude=explained) == openapi.ANSWER_EXAMPLE
    reasons = {error_class.reason for error_class in error_classes()}
    assert {one.reason for one in openapi.REFUSALS} - reasons == {"REQUEST_TOO_LARGE"}
