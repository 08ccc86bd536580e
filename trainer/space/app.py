"""A page to try a language model on: a prompt, how long, how freely, and the text as it comes."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    StoppingCriteria,
    StoppingCriteriaList,
    TextIteratorStreamer,
)

HERE = Path(__file__).resolve().parent


def find_model() -> str:
    """MODEL_ID, or the folder of a model beside this file or above it."""
    if named := os.environ.get("MODEL_ID"):
        return named
    for folder in (HERE / "model", HERE.parent):
        if (folder / "config.json").is_file():
            return str(folder)
    raise SystemExit("There is no model here. Set MODEL_ID to one of the Hub, or to a folder.")


def name_it() -> str:
    """The heading of the page: that of the README beside this file."""
    readme = HERE / "README.md"
    lines = readme.read_text(encoding="utf-8").splitlines() if readme.is_file() else []
    return next((line.removeprefix("# ") for line in lines if line.startswith("# ")), "A language model")


MODEL = find_model()
NAME = name_it()
tokenizer = AutoTokenizer.from_pretrained(MODEL)
model: Any = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
CONTEXT = model.config.n_positions
LONGEST = min(1024, CONTEXT - 1)
IS_CHAT = tokenizer.chat_template is not None


def read(prompt: str, max_tokens: int) -> dict[str, torch.Tensor]:
    """The prompt's last tokens, as many as leave room for the answer."""
    if IS_CHAT:
        turns = [{"role": "user", "content": prompt}]
        prompt = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
    tokens = tokenizer(prompt, add_special_tokens=False)["input_ids"] or [model.config.bos_token_id]
    ids = torch.tensor([tokens[-(CONTEXT - max_tokens) :]])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


class Stopped(StoppingCriteria):
    """Ends a generation once its reader has gone."""

    def __init__(self) -> None:
        self.wanted = True

    def __call__(self, ids: torch.Tensor, scores: object, **_: object) -> torch.Tensor:
        return torch.full((ids.shape[0],), not self.wanted, dtype=torch.bool)


def generate(prompt: str, max_tokens: float, temperature: float, top_k: float) -> Iterator[str]:
    """The text so far, again and again."""
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True, timeout=300.0)
    how: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        how = {"do_sample": True, "temperature": temperature, "top_k": int(top_k), "top_p": 1.0}
    stopped = Stopped()
    asked = {
        **read(prompt, int(max_tokens)),
        **how,
        "max_new_tokens": int(max_tokens),
        "pad_token_id": tokenizer.eos_token_id,
        "streamer": streamer,
        "stopping_criteria": StoppingCriteriaList([stopped]),
    }
    failed: list[BaseException] = []

    def run() -> None:
        try:
            model.generate(**asked)
        except Exception as error:  # noqa: BLE001  the page shall say it, whatever it is
            failed.append(error)
            streamer.end()

    threading.Thread(target=run, daemon=True).start()
    text = "" if IS_CHAT else prompt
    try:
        for piece in streamer:
            text += piece
            yield text
    finally:
        stopped.wanted = False
    if failed:
        raise gr.Error(f"The model could not answer: {failed[0]}")
    yield text or "(The model ended the text at once.)"


def make_page() -> gr.Blocks:
    """The page."""
    with gr.Blocks(title=NAME) as page:
        what = "Ask, and the model answers." if IS_CHAT else "Begin a text, and the model goes on with it."
        gr.Markdown(f"# {NAME}\n{what}")
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=300):
                label = "Question" if IS_CHAT else "Prompt"
                prompt = gr.Textbox(label=label, lines=4, max_lines=12, elem_id="prompt")
                with gr.Row():
                    start = gr.Button("Generate", variant="primary")
                    stop = gr.Button("Stop")
                label = "Answer" if IS_CHAT else "Text"
                text = gr.Textbox(
                    label=label, lines=8, max_lines=40, interactive=False, buttons=["copy"], elem_id="text"
                )
            with gr.Column(scale=2, min_width=240):
                max_tokens = gr.Slider(1, LONGEST, value=min(100, LONGEST), step=1, label="Max tokens")
                temperature = gr.Slider(
                    0, 2, value=0.8, step=0.05, label="Temperature", info="0: always the likeliest token"
                )
                top_k = gr.Slider(
                    0, 200, value=40, step=1, label="Top N", info="Draw from the N likeliest; 0: from all"
                )
        asked = [prompt, max_tokens, temperature, top_k]
        running = start.click(generate, asked, text, show_progress="minimal")
        stop.click(None, cancels=[running])
    return page


THEME = gr.themes.Default(
    primary_hue="teal", neutral_hue="slate", font=["system-ui", "sans-serif"], font_mono=["monospace"]
).set(
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    button_primary_text_color="white",
    button_primary_background_fill_dark="*primary_700",
    button_primary_background_fill_hover_dark="*primary_600",
)

if __name__ == "__main__":
    make_page().queue().launch(theme=THEME)
