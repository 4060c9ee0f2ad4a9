"""The greatest size of every field of every request.

They are somewhat above what the calls themselves allow, whose errors say more. What is larger here
is refused before any call works on it.
"""

from typing import Any

from google.protobuf.message import Message

from adapterdistill.errors import InvalidRequestError

MAX_REQUEST_BYTES = 256 << 10
"""Greatest size of a request; the messages of an upload may have `MAX_UPLOAD_MESSAGE_BYTES`."""
MAX_UPLOAD_MESSAGE_BYTES = 2 << 20
MAX_TEXT_BYTES = 1000
"""Greatest size of a text or of bytes that `FIELDS` does not name; names have 230 bytes at most."""
FIELDS = {
    "PublishHeader.manifest_json": 256 << 10,
    "Statement.statement_json": 16 << 10,
    "Statement.certificate": 16 << 10,
    "RenewCertificatesRequest.request_pem": 8 << 10,
    "Chunk.data": MAX_UPLOAD_MESSAGE_BYTES,
    "WithdrawRequest.reason": 4000,
    "ListVersionsRequest.page_token": 2000,
    "Consent.tenants": 1100,
    "PublishHeader.teachers": 1000,
    "WatchRequest.adapter_names": 500,
    "VersionFilter.labels": 16,
}
"""Greatest number of bytes of a text, or of items of a repeated field."""


def check_sizes(message: Message) -> None:
    """Raise InvalidRequestError, with the field's name, if a field is too large."""
    for field, value in message.ListFields():
        if field.is_repeated:
            most = FIELDS[_name(field)]
            if len(value) > most:
                raise InvalidRequestError(
                    f"{field.name} has {len(value)} items, at most {most} are allowed",
                    field=field.name,
                )
            values = value
        else:
            values = (value,)
        if field.message_type is not None:
            for one in values:
                check_sizes(one)
        elif field.type in (field.TYPE_STRING, field.TYPE_BYTES):
            most = MAX_TEXT_BYTES if field.is_repeated else FIELDS.get(_name(field), MAX_TEXT_BYTES)
            for one in values:
                # A character has up to four bytes; only long texts are encoded to be counted.
                size = len(one) if isinstance(one, bytes) or len(one) > most else 4 * len(one)
                if size > most and (isinstance(one, bytes) or len(one.encode()) > most):
                    raise InvalidRequestError(
                        f"{field.name} has more than {most} bytes", field=field.name
                    )


def _name(field: Any) -> str:
    return f"{field.containing_type.name}.{field.name}"
