"""The Space of an export: a page of Gradio on which the model can be tried."""

import re
import shutil
from pathlib import Path

from huggingface_hub import SpaceCardData

from trainer.export_card import licence
from trainer.export_order import SPACE, Order

TEMPLATE = Path(__file__).parent / "space"
APP, REQUIREMENTS = "app.py", "requirements.txt"


def write(order: Order) -> None:
    """Write the folder of the Space into that of the model."""
    folder = order.model / SPACE
    folder.mkdir()
    for name in (APP, REQUIREMENTS):
        shutil.copyfile(TEMPLATE / name, folder / name)
    readme = (TEMPLATE / "README.md").read_text(encoding="utf-8")
    named = readme.replace("{front_matter}", _front_matter(order)).replace("{title}", order.title)
    (folder / "README.md").write_text(named, encoding="utf-8")


def _front_matter(order: Order) -> str:
    pinned = re.search(r"^gradio==(.+)$", (TEMPLATE / REQUIREMENTS).read_text(), re.MULTILINE)
    assert pinned is not None, "the requirements of the Space pin gradio"
    data = SpaceCardData(
        title=order.title,
        sdk="gradio",
        sdk_version=pinned[1],
        python_version="3.11",
        app_file=APP,
        license=licence(order)["license"],
        models=[order.push_to_hub] if order.push_to_hub and order.loads_from_hub else None,
    )
    return str(data.to_yaml()).strip()
