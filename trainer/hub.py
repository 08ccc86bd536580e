"""The only place that writes to the Hugging Face Hub: `python -m trainer.hub FOLDER`, as its order says."""

import os
import sys
import traceback
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is its HTTP client's
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    OfflineModeIsEnabled,
)

from jobs.errors import HubFailed
from trainer import lifeline
from trainer.export_order import MODEL, SPACE, Answer, Order

TOKEN = "HF_TOKEN"
NO_TOKEN = "Pushing to the Hub needs a token. Set HF_TOKEN for the trainer, or export without pushing."
MODEL_ID = "MODEL_ID"  # the variable in which the page of a Space looks

_SETTINGS = "https://huggingface.co/settings/tokens"


def push_model(api: HfApi, order: Order) -> str:
    """Push the model to `order.push_to_hub`; return its URL. Twice is the same as once.

    Raises:
        HubFailed: the Hub refuses it, or is out of reach.
    """
    name = str(order.push_to_hub)
    try:
        url = api.create_repo(name, private=order.private, exist_ok=True)
        api.upload_folder(
            repo_id=name,
            folder_path=order.model,
            ignore_patterns=[f"{SPACE}/*"],
            commit_message=f"Export {order.name}",
        )
    except (HFValidationError, HTTPError, OSError) as error:
        raise _failure(name, error) from error
    return str(url)


def push_space(api: HfApi, order: Order) -> str:
    """Push the Space to `order.space`, with the model unless it finds that on the Hub; return its URL.

    Raises:
        HubFailed: the Hub refuses it, or is out of reach.
    """
    name, kind = str(order.space), "space"
    said = f"Export {order.name}"
    try:
        url = api.create_repo(name, repo_type=kind, space_sdk="gradio", private=order.private, exist_ok=True)
        if order.loads_from_hub:
            api.add_space_variable(name, MODEL_ID, str(order.push_to_hub))
        else:
            api.upload_folder(
                repo_id=name,
                repo_type=kind,
                folder_path=order.model,
                path_in_repo=MODEL,
                ignore_patterns=[f"{SPACE}/*"],
                commit_message=said,
            )
        # last: the page is built when its app.py comes
        api.upload_folder(repo_id=name, repo_type=kind, folder_path=order.model / SPACE, commit_message=said)
    except (HFValidationError, HTTPError, OSError) as error:
        raise _failure(name, error) from error
    return str(url)


def push(api: HfApi, order: Order) -> Answer:
    """Push what is asked for; what has come to the Hub is named, whatever became of the rest."""
    hub = space = None
    try:
        if order.push_to_hub is not None:
            hub = push_model(api, order)
        if order.space is not None:
            space = push_space(api, order)
    except HubFailed as error:
        traceback.print_exception(error)  # its cause, for the trainer's log
        return Answer(code=error.code, message=str(error), hub=hub, space=space)
    return Answer(hub=hub, space=space)


def _failure(name: str, error: Exception) -> HubFailed:
    if isinstance(error, HFValidationError):
        return HubFailed(f"'{name}' is no name of a repository of the Hub: {error}")
    if isinstance(error, OfflineModeIsEnabled):
        return HubFailed(f"HF_HUB_OFFLINE is set for the trainer, so '{name}' was not pushed. Unset it.")
    if not isinstance(error, HfHubHTTPError):
        return HubFailed(f"The Hub could not be reached, so '{name}' was not pushed. Export it again later.")
    said = " ".join((error.server_message or "").split())
    match error.response.status_code:
        case 401:
            return HubFailed(
                f"The Hub does not know the token in HF_TOKEN. Make one that may write at {_SETTINGS}."
            )
        case 403:
            return HubFailed(
                f"The token in HF_TOKEN may not write to '{name}'. Use one that may ({_SETTINGS}), "
                f"or a name of its owner. {said}".strip()
            )
        case 429:
            return HubFailed("The Hub takes no more requests for now. Export it again later.")
        case status:
            return HubFailed(f"The Hub refused '{name}' with status {status}. {said}".strip())


def main(folder: Path) -> None:
    """Push, and answer how it went."""
    lifeline.hold()
    order = Order.read(folder)
    push(HfApi(token=os.environ[TOKEN], library_name="penstock"), order).write(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
