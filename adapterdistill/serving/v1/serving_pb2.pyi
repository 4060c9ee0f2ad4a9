from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SearchRequest(_message.Message):
    __slots__ = ("tenant", "queries", "top_k")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    QUERIES_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    queries: _containers.RepeatedScalarFieldContainer[str]
    top_k: int
    def __init__(self, tenant: _Optional[str] = ..., queries: _Optional[_Iterable[str]] = ..., top_k: _Optional[int] = ...) -> None: ...

class SearchResponse(_message.Message):
    __slots__ = ("tenant", "adapter", "results")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    adapter: AdapterVersion
    results: _containers.RepeatedCompositeFieldContainer[SearchResult]
    def __init__(self, tenant: _Optional[str] = ..., adapter: _Optional[_Union[AdapterVersion, _Mapping]] = ..., results: _Optional[_Iterable[_Union[SearchResult, _Mapping]]] = ...) -> None: ...

class AdapterVersion(_message.Message):
    __slots__ = ("name", "version", "form")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FORM_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    form: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., form: _Optional[str] = ...) -> None: ...

class SearchResult(_message.Message):
    __slots__ = ("ranked", "abstained", "confidence")
    RANKED_FIELD_NUMBER: _ClassVar[int]
    ABSTAINED_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    ranked: _containers.RepeatedCompositeFieldContainer[RankedFaq]
    abstained: bool
    confidence: float
    def __init__(self, ranked: _Optional[_Iterable[_Union[RankedFaq, _Mapping]]] = ..., abstained: _Optional[bool] = ..., confidence: _Optional[float] = ...) -> None: ...

class RankedFaq(_message.Message):
    __slots__ = ("faq_id", "question", "answer", "score")
    FAQ_ID_FIELD_NUMBER: _ClassVar[int]
    QUESTION_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    faq_id: str
    question: str
    answer: str
    score: float
    def __init__(self, faq_id: _Optional[str] = ..., question: _Optional[str] = ..., answer: _Optional[str] = ..., score: _Optional[float] = ...) -> None: ...

class GetTenantRequest(_message.Message):
    __slots__ = ("tenant",)
    TENANT_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    def __init__(self, tenant: _Optional[str] = ...) -> None: ...

class GetTenantResponse(_message.Message):
    __slots__ = ("tenant", "adapter", "num_faqs", "threshold", "quality", "drift")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    NUM_FAQS_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    QUALITY_FIELD_NUMBER: _ClassVar[int]
    DRIFT_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    adapter: AdapterVersion
    num_faqs: int
    threshold: float
    quality: Quality
    drift: Drift
    def __init__(self, tenant: _Optional[str] = ..., adapter: _Optional[_Union[AdapterVersion, _Mapping]] = ..., num_faqs: _Optional[int] = ..., threshold: _Optional[float] = ..., quality: _Optional[_Union[Quality, _Mapping]] = ..., drift: _Optional[_Union[Drift, _Mapping]] = ...) -> None: ...

class Quality(_message.Message):
    __slots__ = ("queries", "share_answered", "expected_error", "expected_error_bound")
    QUERIES_FIELD_NUMBER: _ClassVar[int]
    SHARE_ANSWERED_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_ERROR_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_ERROR_BOUND_FIELD_NUMBER: _ClassVar[int]
    queries: int
    share_answered: float
    expected_error: float
    expected_error_bound: float
    def __init__(self, queries: _Optional[int] = ..., share_answered: _Optional[float] = ..., expected_error: _Optional[float] = ..., expected_error_bound: _Optional[float] = ...) -> None: ...

class Drift(_message.Message):
    __slots__ = ("queries", "share_abstained", "psi", "expected_psi", "drifted")
    QUERIES_FIELD_NUMBER: _ClassVar[int]
    SHARE_ABSTAINED_FIELD_NUMBER: _ClassVar[int]
    PSI_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_PSI_FIELD_NUMBER: _ClassVar[int]
    DRIFTED_FIELD_NUMBER: _ClassVar[int]
    queries: int
    share_abstained: float
    psi: float
    expected_psi: float
    drifted: bool
    def __init__(self, queries: _Optional[int] = ..., share_abstained: _Optional[float] = ..., psi: _Optional[float] = ..., expected_psi: _Optional[float] = ..., drifted: _Optional[bool] = ...) -> None: ...
