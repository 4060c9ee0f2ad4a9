"""What somebody says of an answer, over HTTP."""

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from adapterdistill.feedback import opened
from adapterdistill.serve.http.schema import QueryText


class FeedbackRequest(BaseModel):
    """What somebody says of an answer."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    query: QueryText
    verdict: Literal["right", "wrong", "out_of_scope"] = Field(
        description="`right`: the FAQ `faq_id` answers the query. `wrong`: the answer was wrong, "
        "and nobody knows which is right. `out_of_scope`: no FAQ of the tenant answers it."
    )
    faq_id: str | None = Field(
        default=None, description="The FAQ that is right; for `right` alone."
    )

    @model_validator(mode="after")
    def _one_that_is_right(self) -> Self:
        if (self.verdict == "right") != (self.faq_id is not None):
            raise PydanticCustomError(
                "verdict", "give faq_id with the verdict right, and only then"
            )
        return self

    def write(self, store: Path, tenant: str) -> None:
        """Keep it beside the tenant's bundles.

        Raises:
            FileError: the file cannot be written.
        """
        right = "" if self.verdict == "out_of_scope" else self.faq_id
        with opened(store, tenant) as kept:
            kept.tell(self.query, right=right, wrong=self.verdict == "wrong")
