from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Alias(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ALIAS_UNSPECIFIED: _ClassVar[Alias]
    ALIAS_LIVE: _ClassVar[Alias]
    ALIAS_CANARY: _ClassVar[Alias]

class CandidateMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CANDIDATE_MODE_UNSPECIFIED: _ClassVar[CandidateMode]
    CANDIDATE_MODE_CANARY: _ClassVar[CandidateMode]
    CANDIDATE_MODE_SHADOW: _ClassVar[CandidateMode]

class CandidateState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CANDIDATE_STATE_UNSPECIFIED: _ClassVar[CandidateState]
    CANDIDATE_STATE_SERVED: _ClassVar[CandidateState]
    CANDIDATE_STATE_REFUSED: _ClassVar[CandidateState]
    CANDIDATE_STATE_WITHDRAWN: _ClassVar[CandidateState]
ALIAS_UNSPECIFIED: Alias
ALIAS_LIVE: Alias
ALIAS_CANARY: Alias
CANDIDATE_MODE_UNSPECIFIED: CandidateMode
CANDIDATE_MODE_CANARY: CandidateMode
CANDIDATE_MODE_SHADOW: CandidateMode
CANDIDATE_STATE_UNSPECIFIED: CandidateState
CANDIDATE_STATE_SERVED: CandidateState
CANDIDATE_STATE_REFUSED: CandidateState
CANDIDATE_STATE_WITHDRAWN: CandidateState

class SearchRequest(_message.Message):
    __slots__ = ("tenant", "queries", "top_k", "alias", "explain")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    QUERIES_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    EXPLAIN_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    queries: _containers.RepeatedScalarFieldContainer[str]
    top_k: int
    alias: Alias
    explain: bool
    def __init__(self, tenant: _Optional[str] = ..., queries: _Optional[_Iterable[str]] = ..., top_k: _Optional[int] = ..., alias: _Optional[_Union[Alias, str]] = ..., explain: _Optional[bool] = ...) -> None: ...

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
    __slots__ = ("name", "version", "form", "alias")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FORM_FIELD_NUMBER: _ClassVar[int]
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    form: str
    alias: Alias
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., form: _Optional[str] = ..., alias: _Optional[_Union[Alias, str]] = ...) -> None: ...

class SearchResult(_message.Message):
    __slots__ = ("ranked", "abstained", "confidence", "decided_by")
    RANKED_FIELD_NUMBER: _ClassVar[int]
    ABSTAINED_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    DECIDED_BY_FIELD_NUMBER: _ClassVar[int]
    ranked: _containers.RepeatedCompositeFieldContainer[RankedFaq]
    abstained: bool
    confidence: float
    decided_by: str
    def __init__(self, ranked: _Optional[_Iterable[_Union[RankedFaq, _Mapping]]] = ..., abstained: _Optional[bool] = ..., confidence: _Optional[float] = ..., decided_by: _Optional[str] = ...) -> None: ...

class RankedFaq(_message.Message):
    __slots__ = ("faq_id", "question", "answer", "score", "views")
    FAQ_ID_FIELD_NUMBER: _ClassVar[int]
    QUESTION_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    VIEWS_FIELD_NUMBER: _ClassVar[int]
    faq_id: str
    question: str
    answer: str
    score: float
    views: ViewScores
    def __init__(self, faq_id: _Optional[str] = ..., question: _Optional[str] = ..., answer: _Optional[str] = ..., score: _Optional[float] = ..., views: _Optional[_Union[ViewScores, _Mapping]] = ...) -> None: ...

class ViewScores(_message.Message):
    __slots__ = ("cosine", "head", "characters", "answers")
    COSINE_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    CHARACTERS_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    cosine: float
    head: float
    characters: float
    answers: float
    def __init__(self, cosine: _Optional[float] = ..., head: _Optional[float] = ..., characters: _Optional[float] = ..., answers: _Optional[float] = ...) -> None: ...

class ClassifyRequest(_message.Message):
    __slots__ = ("tenant", "task", "texts", "text_pairs", "top_k", "alias")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    TEXT_PAIRS_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    task: str
    texts: _containers.RepeatedScalarFieldContainer[str]
    text_pairs: _containers.RepeatedScalarFieldContainer[str]
    top_k: int
    alias: Alias
    def __init__(self, tenant: _Optional[str] = ..., task: _Optional[str] = ..., texts: _Optional[_Iterable[str]] = ..., text_pairs: _Optional[_Iterable[str]] = ..., top_k: _Optional[int] = ..., alias: _Optional[_Union[Alias, str]] = ...) -> None: ...

class ClassifyResponse(_message.Message):
    __slots__ = ("tenant", "adapter", "task", "results")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    adapter: AdapterVersion
    task: str
    results: _containers.RepeatedCompositeFieldContainer[ClassifyResult]
    def __init__(self, tenant: _Optional[str] = ..., adapter: _Optional[_Union[AdapterVersion, _Mapping]] = ..., task: _Optional[str] = ..., results: _Optional[_Iterable[_Union[ClassifyResult, _Mapping]]] = ...) -> None: ...

class ClassifyResult(_message.Message):
    __slots__ = ("ranked",)
    RANKED_FIELD_NUMBER: _ClassVar[int]
    ranked: _containers.RepeatedCompositeFieldContainer[RankedClass]
    def __init__(self, ranked: _Optional[_Iterable[_Union[RankedClass, _Mapping]]] = ...) -> None: ...

class RankedClass(_message.Message):
    __slots__ = ("label", "probability")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    label: str
    probability: float
    def __init__(self, label: _Optional[str] = ..., probability: _Optional[float] = ...) -> None: ...

class GetTenantRequest(_message.Message):
    __slots__ = ("tenant",)
    TENANT_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    def __init__(self, tenant: _Optional[str] = ...) -> None: ...

class GetTenantResponse(_message.Message):
    __slots__ = ("tenant", "adapter", "num_faqs", "threshold", "quality", "drift", "candidate")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    NUM_FAQS_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    QUALITY_FIELD_NUMBER: _ClassVar[int]
    DRIFT_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    adapter: AdapterVersion
    num_faqs: int
    threshold: float
    quality: Quality
    drift: Drift
    candidate: Candidate
    def __init__(self, tenant: _Optional[str] = ..., adapter: _Optional[_Union[AdapterVersion, _Mapping]] = ..., num_faqs: _Optional[int] = ..., threshold: _Optional[float] = ..., quality: _Optional[_Union[Quality, _Mapping]] = ..., drift: _Optional[_Union[Drift, _Mapping]] = ..., candidate: _Optional[_Union[Candidate, _Mapping]] = ...) -> None: ...

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

class Candidate(_message.Message):
    __slots__ = ("version", "mode", "share", "state", "comparison")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    COMPARISON_FIELD_NUMBER: _ClassVar[int]
    version: str
    mode: CandidateMode
    share: float
    state: CandidateState
    comparison: Comparison
    def __init__(self, version: _Optional[str] = ..., mode: _Optional[_Union[CandidateMode, str]] = ..., share: _Optional[float] = ..., state: _Optional[_Union[CandidateState, str]] = ..., comparison: _Optional[_Union[Comparison, _Mapping]] = ...) -> None: ...

class Comparison(_message.Message):
    __slots__ = ("queries", "same_best", "same_abstention", "mean_score_difference")
    QUERIES_FIELD_NUMBER: _ClassVar[int]
    SAME_BEST_FIELD_NUMBER: _ClassVar[int]
    SAME_ABSTENTION_FIELD_NUMBER: _ClassVar[int]
    MEAN_SCORE_DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    queries: int
    same_best: float
    same_abstention: float
    mean_score_difference: float
    def __init__(self, queries: _Optional[int] = ..., same_best: _Optional[float] = ..., same_abstention: _Optional[float] = ..., mean_score_difference: _Optional[float] = ...) -> None: ...
