import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AdapterKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ADAPTER_KIND_UNSPECIFIED: _ClassVar[AdapterKind]
    ADAPTER_KIND_BOTTLENECK: _ClassVar[AdapterKind]
    ADAPTER_KIND_FUSION: _ClassVar[AdapterKind]

class VersionState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VERSION_STATE_UNSPECIFIED: _ClassVar[VersionState]
    VERSION_STATE_ACTIVE: _ClassVar[VersionState]
    VERSION_STATE_QUARANTINED: _ClassVar[VersionState]
    VERSION_STATE_WITHDRAWN: _ClassVar[VersionState]

class VersionView(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VERSION_VIEW_UNSPECIFIED: _ClassVar[VersionView]
    VERSION_VIEW_SUMMARY: _ClassVar[VersionView]

class EventKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EVENT_KIND_UNSPECIFIED: _ClassVar[EventKind]
    EVENT_KIND_PUBLISHED: _ClassVar[EventKind]
    EVENT_KIND_QUARANTINED: _ClassVar[EventKind]
    EVENT_KIND_RELEASED: _ClassVar[EventKind]
    EVENT_KIND_WITHDRAWN: _ClassVar[EventKind]
    EVENT_KIND_TEACHER_WITHDRAWN: _ClassVar[EventKind]
    EVENT_KIND_CONSENT_CHANGED: _ClassVar[EventKind]
    EVENT_KIND_ALIAS_MOVED: _ClassVar[EventKind]
ADAPTER_KIND_UNSPECIFIED: AdapterKind
ADAPTER_KIND_BOTTLENECK: AdapterKind
ADAPTER_KIND_FUSION: AdapterKind
VERSION_STATE_UNSPECIFIED: VersionState
VERSION_STATE_ACTIVE: VersionState
VERSION_STATE_QUARANTINED: VersionState
VERSION_STATE_WITHDRAWN: VersionState
VERSION_VIEW_UNSPECIFIED: VersionView
VERSION_VIEW_SUMMARY: VersionView
EVENT_KIND_UNSPECIFIED: EventKind
EVENT_KIND_PUBLISHED: EventKind
EVENT_KIND_QUARANTINED: EventKind
EVENT_KIND_RELEASED: EventKind
EVENT_KIND_WITHDRAWN: EventKind
EVENT_KIND_TEACHER_WITHDRAWN: EventKind
EVENT_KIND_CONSENT_CHANGED: EventKind
EVENT_KIND_ALIAS_MOVED: EventKind

class EncoderDigests(_message.Message):
    __slots__ = ("weights_sha256", "tokenizer_sha256")
    WEIGHTS_SHA256_FIELD_NUMBER: _ClassVar[int]
    TOKENIZER_SHA256_FIELD_NUMBER: _ClassVar[int]
    weights_sha256: str
    tokenizer_sha256: str
    def __init__(self, weights_sha256: _Optional[str] = ..., tokenizer_sha256: _Optional[str] = ...) -> None: ...

class Consent(_message.Message):
    __slots__ = ("everyone", "tenants")
    EVERYONE_FIELD_NUMBER: _ClassVar[int]
    TENANTS_FIELD_NUMBER: _ClassVar[int]
    everyone: bool
    tenants: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, everyone: _Optional[bool] = ..., tenants: _Optional[_Iterable[str]] = ...) -> None: ...

class Statement(_message.Message):
    __slots__ = ("statement_json", "signature", "certificate")
    STATEMENT_JSON_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    statement_json: bytes
    signature: bytes
    certificate: bytes
    def __init__(self, statement_json: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., certificate: _Optional[bytes] = ...) -> None: ...

class Version(_message.Message):
    __slots__ = ("name", "manifest_json", "kind", "task", "language", "encoder", "payload_bytes", "revision", "create_time", "signature", "state", "state_reason", "withdrawn_teacher", "consent", "statement", "teachers")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_JSON_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    LANGUAGE_FIELD_NUMBER: _ClassVar[int]
    ENCODER_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STATE_REASON_FIELD_NUMBER: _ClassVar[int]
    WITHDRAWN_TEACHER_FIELD_NUMBER: _ClassVar[int]
    CONSENT_FIELD_NUMBER: _ClassVar[int]
    STATEMENT_FIELD_NUMBER: _ClassVar[int]
    TEACHERS_FIELD_NUMBER: _ClassVar[int]
    name: str
    manifest_json: bytes
    kind: AdapterKind
    task: str
    language: str
    encoder: EncoderDigests
    payload_bytes: int
    revision: int
    create_time: _timestamp_pb2.Timestamp
    signature: Signature
    state: VersionState
    state_reason: str
    withdrawn_teacher: str
    consent: Consent
    statement: Statement
    teachers: _containers.RepeatedCompositeFieldContainer[TeacherOpening]
    def __init__(self, name: _Optional[str] = ..., manifest_json: _Optional[bytes] = ..., kind: _Optional[_Union[AdapterKind, str]] = ..., task: _Optional[str] = ..., language: _Optional[str] = ..., encoder: _Optional[_Union[EncoderDigests, _Mapping]] = ..., payload_bytes: _Optional[int] = ..., revision: _Optional[int] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., signature: _Optional[_Union[Signature, _Mapping]] = ..., state: _Optional[_Union[VersionState, str]] = ..., state_reason: _Optional[str] = ..., withdrawn_teacher: _Optional[str] = ..., consent: _Optional[_Union[Consent, _Mapping]] = ..., statement: _Optional[_Union[Statement, _Mapping]] = ..., teachers: _Optional[_Iterable[_Union[TeacherOpening, _Mapping]]] = ...) -> None: ...

class TeacherOpening(_message.Message):
    __slots__ = ("name", "salt")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SALT_FIELD_NUMBER: _ClassVar[int]
    name: str
    salt: bytes
    def __init__(self, name: _Optional[str] = ..., salt: _Optional[bytes] = ...) -> None: ...

class Signature(_message.Message):
    __slots__ = ("probe_sha256", "values")
    PROBE_SHA256_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    probe_sha256: str
    values: bytes
    def __init__(self, probe_sha256: _Optional[str] = ..., values: _Optional[bytes] = ...) -> None: ...

class PublishHeader(_message.Message):
    __slots__ = ("name", "manifest_json", "statement", "consent", "teachers")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_JSON_FIELD_NUMBER: _ClassVar[int]
    STATEMENT_FIELD_NUMBER: _ClassVar[int]
    CONSENT_FIELD_NUMBER: _ClassVar[int]
    TEACHERS_FIELD_NUMBER: _ClassVar[int]
    name: str
    manifest_json: bytes
    statement: Statement
    consent: Consent
    teachers: _containers.RepeatedCompositeFieldContainer[TeacherOpening]
    def __init__(self, name: _Optional[str] = ..., manifest_json: _Optional[bytes] = ..., statement: _Optional[_Union[Statement, _Mapping]] = ..., consent: _Optional[_Union[Consent, _Mapping]] = ..., teachers: _Optional[_Iterable[_Union[TeacherOpening, _Mapping]]] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("offset", "data", "crc32c")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    CRC32C_FIELD_NUMBER: _ClassVar[int]
    offset: int
    data: bytes
    crc32c: int
    def __init__(self, offset: _Optional[int] = ..., data: _Optional[bytes] = ..., crc32c: _Optional[int] = ...) -> None: ...

class PublishRequest(_message.Message):
    __slots__ = ("header", "chunk")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    header: PublishHeader
    chunk: Chunk
    def __init__(self, header: _Optional[_Union[PublishHeader, _Mapping]] = ..., chunk: _Optional[_Union[Chunk, _Mapping]] = ...) -> None: ...

class PublishResponse(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: Version
    def __init__(self, version: _Optional[_Union[Version, _Mapping]] = ...) -> None: ...

class FetchRequest(_message.Message):
    __slots__ = ("name", "encoder", "offset")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ENCODER_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    name: str
    encoder: EncoderDigests
    offset: int
    def __init__(self, name: _Optional[str] = ..., encoder: _Optional[_Union[EncoderDigests, _Mapping]] = ..., offset: _Optional[int] = ...) -> None: ...

class FetchResponse(_message.Message):
    __slots__ = ("version", "chunk")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    version: Version
    chunk: Chunk
    def __init__(self, version: _Optional[_Union[Version, _Mapping]] = ..., chunk: _Optional[_Union[Chunk, _Mapping]] = ...) -> None: ...

class GetVersionRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetVersionResponse(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: Version
    def __init__(self, version: _Optional[_Union[Version, _Mapping]] = ...) -> None: ...

class VersionFilter(_message.Message):
    __slots__ = ("tenant", "exclude_tenant", "encoder", "latest_only", "task", "language", "labels", "changed_after")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_TENANT_FIELD_NUMBER: _ClassVar[int]
    ENCODER_FIELD_NUMBER: _ClassVar[int]
    LATEST_ONLY_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    LANGUAGE_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    CHANGED_AFTER_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    exclude_tenant: str
    encoder: EncoderDigests
    latest_only: bool
    task: str
    language: str
    labels: _containers.RepeatedScalarFieldContainer[str]
    changed_after: int
    def __init__(self, tenant: _Optional[str] = ..., exclude_tenant: _Optional[str] = ..., encoder: _Optional[_Union[EncoderDigests, _Mapping]] = ..., latest_only: _Optional[bool] = ..., task: _Optional[str] = ..., language: _Optional[str] = ..., labels: _Optional[_Iterable[str]] = ..., changed_after: _Optional[int] = ...) -> None: ...

class ListVersionsRequest(_message.Message):
    __slots__ = ("filter", "page_size", "page_token", "view")
    FILTER_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    filter: VersionFilter
    page_size: int
    page_token: str
    view: VersionView
    def __init__(self, filter: _Optional[_Union[VersionFilter, _Mapping]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., view: _Optional[_Union[VersionView, str]] = ...) -> None: ...

class ListVersionsResponse(_message.Message):
    __slots__ = ("versions", "next_page_token", "incarnation")
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    versions: _containers.RepeatedCompositeFieldContainer[Version]
    next_page_token: str
    incarnation: str
    def __init__(self, versions: _Optional[_Iterable[_Union[Version, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., incarnation: _Optional[str] = ...) -> None: ...

class Alias(_message.Message):
    __slots__ = ("name", "version_name", "etag")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_NAME_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    name: str
    version_name: str
    etag: str
    def __init__(self, name: _Optional[str] = ..., version_name: _Optional[str] = ..., etag: _Optional[str] = ...) -> None: ...

class GetAliasRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetAliasResponse(_message.Message):
    __slots__ = ("alias",)
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    alias: Alias
    def __init__(self, alias: _Optional[_Union[Alias, _Mapping]] = ...) -> None: ...

class SetAliasRequest(_message.Message):
    __slots__ = ("alias", "request_id")
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    alias: Alias
    request_id: str
    def __init__(self, alias: _Optional[_Union[Alias, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class SetAliasResponse(_message.Message):
    __slots__ = ("alias",)
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    alias: Alias
    def __init__(self, alias: _Optional[_Union[Alias, _Mapping]] = ...) -> None: ...

class GetLineageRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class Relative(_message.Message):
    __slots__ = ("name", "depth")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DEPTH_FIELD_NUMBER: _ClassVar[int]
    name: str
    depth: int
    def __init__(self, name: _Optional[str] = ..., depth: _Optional[int] = ...) -> None: ...

class GetLineageResponse(_message.Message):
    __slots__ = ("ancestors", "descendants", "truncated")
    ANCESTORS_FIELD_NUMBER: _ClassVar[int]
    DESCENDANTS_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    ancestors: _containers.RepeatedCompositeFieldContainer[Relative]
    descendants: _containers.RepeatedCompositeFieldContainer[Relative]
    truncated: bool
    def __init__(self, ancestors: _Optional[_Iterable[_Union[Relative, _Mapping]]] = ..., descendants: _Optional[_Iterable[_Union[Relative, _Mapping]]] = ..., truncated: _Optional[bool] = ...) -> None: ...

class QueryUploadRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class QueryUploadResponse(_message.Message):
    __slots__ = ("offset", "published")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_FIELD_NUMBER: _ClassVar[int]
    offset: int
    published: bool
    def __init__(self, offset: _Optional[int] = ..., published: _Optional[bool] = ...) -> None: ...

class GetAdapterRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetAdapterResponse(_message.Message):
    __slots__ = ("consent", "newest_version_name")
    CONSENT_FIELD_NUMBER: _ClassVar[int]
    NEWEST_VERSION_NAME_FIELD_NUMBER: _ClassVar[int]
    consent: Consent
    newest_version_name: str
    def __init__(self, consent: _Optional[_Union[Consent, _Mapping]] = ..., newest_version_name: _Optional[str] = ...) -> None: ...

class SetConsentRequest(_message.Message):
    __slots__ = ("adapter_name", "consent", "request_id")
    ADAPTER_NAME_FIELD_NUMBER: _ClassVar[int]
    CONSENT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    adapter_name: str
    consent: Consent
    request_id: str
    def __init__(self, adapter_name: _Optional[str] = ..., consent: _Optional[_Union[Consent, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class SetConsentResponse(_message.Message):
    __slots__ = ("consent",)
    CONSENT_FIELD_NUMBER: _ClassVar[int]
    consent: Consent
    def __init__(self, consent: _Optional[_Union[Consent, _Mapping]] = ...) -> None: ...

class WithdrawRequest(_message.Message):
    __slots__ = ("name", "reason", "request_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    reason: str
    request_id: str
    def __init__(self, name: _Optional[str] = ..., reason: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class WithdrawResponse(_message.Message):
    __slots__ = ("version", "descendants")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DESCENDANTS_FIELD_NUMBER: _ClassVar[int]
    version: Version
    descendants: _containers.RepeatedCompositeFieldContainer[Relative]
    def __init__(self, version: _Optional[_Union[Version, _Mapping]] = ..., descendants: _Optional[_Iterable[_Union[Relative, _Mapping]]] = ...) -> None: ...

class ReleaseVersionRequest(_message.Message):
    __slots__ = ("name", "request_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    request_id: str
    def __init__(self, name: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class ReleaseVersionResponse(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: Version
    def __init__(self, version: _Optional[_Union[Version, _Mapping]] = ...) -> None: ...

class RenewCertificatesRequest(_message.Message):
    __slots__ = ("request_pem",)
    REQUEST_PEM_FIELD_NUMBER: _ClassVar[int]
    request_pem: bytes
    def __init__(self, request_pem: _Optional[bytes] = ...) -> None: ...

class RenewCertificatesResponse(_message.Message):
    __slots__ = ("certificates_pem",)
    CERTIFICATES_PEM_FIELD_NUMBER: _ClassVar[int]
    certificates_pem: bytes
    def __init__(self, certificates_pem: _Optional[bytes] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("revision", "time", "kind", "name", "other_name", "reason")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    OTHER_NAME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    revision: int
    time: _timestamp_pb2.Timestamp
    kind: EventKind
    name: str
    other_name: str
    reason: str
    def __init__(self, revision: _Optional[int] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., kind: _Optional[_Union[EventKind, str]] = ..., name: _Optional[str] = ..., other_name: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("after_revision", "adapter_names", "incarnation")
    AFTER_REVISION_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_NAMES_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    after_revision: int
    adapter_names: _containers.RepeatedScalarFieldContainer[str]
    incarnation: str
    def __init__(self, after_revision: _Optional[int] = ..., adapter_names: _Optional[_Iterable[str]] = ..., incarnation: _Optional[str] = ...) -> None: ...

class WatchResponse(_message.Message):
    __slots__ = ("event", "revision", "incarnation")
    EVENT_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    event: Event
    revision: int
    incarnation: str
    def __init__(self, event: _Optional[_Union[Event, _Mapping]] = ..., revision: _Optional[int] = ..., incarnation: _Optional[str] = ...) -> None: ...
