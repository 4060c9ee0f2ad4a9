"""Publishes an exported adapter on a Hugging Face hub."""

from collections.abc import Mapping

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from adapterdistill.errors import ConfigError, ServingError, UnauthenticatedError

# Which HTTP client it has depends on its release: these are that client's errors.
_HTTP_ERRORS = tuple(kind for kind in HfHubHTTPError.__bases__ if issubclass(kind, Exception))
HUB = "https://huggingface.co"


def publish(files: Mapping[str, bytes], model: str, *, token: str, hub: str = HUB) -> str:
    """Write the files in one commit to a model, which is made private if it is absent.

    Returns its address. A model that is there keeps its visibility.

    Args:
        files: content by name.
        model: OWNER/NAME.
        token: of the hub, with the right to write.
        hub: URL of the hub.

    Raises:
        ConfigError: the model's name is malformed.
        UnauthenticatedError: the hub refuses the token for this model.
        ServingError: the hub does not answer, or fails.
    """
    api = HfApi(endpoint=hub, token=token, library_name="adapterdistill")
    try:
        api.create_repo(model, private=True, exist_ok=True)
        operations = [CommitOperationAdd(name, content) for name, content in files.items()]
        api.create_commit(model, operations, commit_message="Export an adapter")
    except HFValidationError:
        raise ConfigError(f"not a model of a hub: expected OWNER/NAME, got {model!r:.80}") from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise UnauthenticatedError(f"{hub} refuses the token for {model} ({status})") from None
        raise ServingError(f"{hub} answered {status} when {model} was written") from None
    except _HTTP_ERRORS:
        raise ServingError(f"no answer from {hub}: is the address right?") from None
    return f"{hub}/{model}"
