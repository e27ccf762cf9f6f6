"""One question first: without a network the hub's libraries try for half a minute, aloud, before they say so."""

from __future__ import annotations

from typing import Final, Literal

_SECONDS: Final = 10


def ask_the_hub(kind: Literal["model", "dataset"], name: str) -> None:
    """Asks whether the hub answers; what it says about the name is left to the libraries that load it.

    Nothing is asked in offline mode, nor for a model whose configuration was downloaded before.

    Raises:
        ConnectionError: no answer.
    """
    from huggingface_hub import HfApi, constants, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        if constants.HF_HUB_OFFLINE or (kind == "model" and try_to_load_from_cache(name, "config.json")):
            return
        HfApi().repo_info(name, repo_type=kind, timeout=_SECONDS)
    except (HfHubHTTPError, HFValidationError):
        return
    except Exception as error:  # of whichever HTTP library it uses
        raise ConnectionError(
            f"the hub cannot be reached ({error}); HF_HUB_OFFLINE=1 takes a copy that was downloaded before"
        ) from error
