"""Every way of decoding, through the official client in strict mode, on models that share one worker."""

import json
import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from openai import OpenAI
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import GPT2LMHeadModel

from tests.conftest import ROOT, wait_for
from tests.end_to_end.conftest import FINAL, RunningStack, start_stack
from tests.worker.lanes import lora, write_adapter
from worker.architecture import Architecture

STARTER = ROOT / "models" / "starter"
PROMPT = "\nimport os\n\ndef main("
GREEDY = {"temperature": 0, "max_tokens": 24, "ignore_eos": True}
DRAWN = {"seed": 3, "max_tokens": 40, "ignore_eos": True}


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """The starter in int8 and in fp32, a quiet and a loud adapter over it, and one with NaN in it."""
    folder = tmp_path_factory.mktemp("decoding")
    architecture = Architecture.model_validate(json.loads((STARTER / "config.json").read_text()))
    quiet = lora(architecture)
    loud = {name: tensor * 1e18 for name, tensor in quiet.items()}
    for name, tensors in (("quiet", quiet), ("loud", loud)):
        write_adapter(folder / name, tensors, base_model_name_or_path="starter")
    _spoil(folder / "spoiled")
    names = ("quiet", "loud", "spoiled")
    models = ["starter=models/starter", "exact=models/starter@fp32", *(f"{n}={folder / n}" for n in names)]
    timing = {"LEASE_SECONDS": "4", "HEARTBEAT_SECONDS": "1", "DRAIN_SECONDS": "6"}
    running = start_stack(folder / "var", MODELS=",".join(models), **timing)
    yield running
    assert running.stop() == 0


def _spoil(folder: Path) -> None:
    shutil.copytree(STARTER, folder)
    weights = load_file(STARTER / "model.safetensors")
    weights["transformer.h.3.mlp.c_fc.weight"][0, 0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.fixture(scope="module")
def client(crowded: RunningStack) -> Iterator[OpenAI]:
    """The client, which refuses every object that is not exactly as documented."""
    address = f"{crowded.url}/v1"
    with OpenAI(
        base_url=address, api_key=crowded.key, max_retries=0, timeout=60, _strict_response_validation=True
    ) as client:
        yield client


@pytest.fixture(scope="module")
def reference() -> GPT2LMHeadModel:
    torch.set_num_threads(1)
    return GPT2LMHeadModel.from_pretrained(STARTER, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    made: Tokenizer = Tokenizer.from_file(str(STARTER / "tokenizer.json"))
    return made


def complete(client: OpenAI, prompt: Any = PROMPT, model: str = "starter", **asked: Any) -> Any:
    """A completion; what OpenAI does not have goes along as our extension."""
    theirs = {"max_tokens", "n", "best_of", "echo", "logprobs", "seed", "temperature", "top_p", "stop"}
    theirs |= {"presence_penalty", "frequency_penalty", "logit_bias"}
    known = {name: value for name, value in asked.items() if name in theirs}
    ours = {name: value for name, value in asked.items() if name not in theirs}
    return client.completions.create(model=model, prompt=prompt, extra_body=ours, **known)


def said(client: OpenAI, **asked: Any) -> str:
    text: str = complete(client, **asked).choices[0].text
    return text


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"repetition_penalty": 1.3},
        {"no_repeat_ngram_size": 2},
        {"num_beams": 4, "n": 4},
        {"num_beams": 5, "early_stopping": True, "length_penalty": 0.5},
        {"num_beams": 3, "early_stopping": "never", "repetition_penalty": 1.4},
    ],
    ids=str,
)
def test_in_fp32_it_says_what_transformers_says(
    client: OpenAI, reference: GPT2LMHeadModel, tokenizer: Tokenizer, asked: dict[str, Any]
) -> None:
    prompt = torch.tensor([tokenizer.encode(PROMPT).ids])
    theirs = asked | {"num_return_sequences": asked.get("n", 1), "max_new_tokens": 20, "do_sample": False}
    theirs.pop("n", None)
    expected: Tensor = reference.generate(  # type: ignore[assignment, operator]
        prompt, attention_mask=torch.ones_like(prompt), pad_token_id=0, **theirs
    )
    texts = [tokenizer.decode(tokens) for tokens in expected[:, prompt.shape[1] :].tolist()]
    done = complete(client, model="exact", max_tokens=20, temperature=0, **asked)
    assert [choice.text for choice in done.choices] == texts


@pytest.mark.parametrize("filtered", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}], ids=str)
def test_a_filter_that_leaves_one_token_is_greedy(client: OpenAI, filtered: dict[str, Any]) -> None:
    assert said(client, **DRAWN, **filtered) == said(client, **DRAWN, temperature=0)


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 4},
        {"temperature": 0.3},
        {"typical_p": 0.2},
        {"presence_penalty": 2.0},
        {"frequency_penalty": 2.0},
        {"repetition_penalty": 3.0},
    ],
    ids=str,
)
def test_each_parameter_changes_what_is_drawn(client: OpenAI, changed: dict[str, Any]) -> None:
    first = said(client, **DRAWN)
    assert said(client, **DRAWN) == first
    assert said(client, **(DRAWN | changed)) != first


def test_tokens_can_be_forced_and_words_forbidden(client: OpenAI, tokenizer: Tokenizer) -> None:
    assert said(client, temperature=0, max_tokens=5, logit_bias={"300": 100}) == tokenizer.decode([300] * 5)
    word = max(re.findall(r"[A-Za-z]+", said(client, **GREEDY)), key=len)
    assert word not in said(client, **GREEDY, bad_words=[word])


def test_a_text_ends_where_it_shall(client: OpenAI) -> None:
    whole = complete(client, **GREEDY, logprobs=0).choices[0]
    tokens, text = whole.logprobs.tokens, whole.text
    stop = text[2 : 2 + len(tokens[1] + tokens[2])]  # begins and ends within tokens
    cut = complete(client, **GREEDY, stop=[stop])
    assert (cut.choices[0].text, cut.choices[0].finish_reason) == (text[: text.find(stop)], "stop")
    late = said(client, **GREEDY, stop=[stop], min_tokens=24)
    assert len(late) > len(cut.choices[0].text)


def test_a_stop_token_ends_a_text_and_is_not_in_it(client: OpenAI, tokenizer: Tokenizer) -> None:
    tokens = complete(client, **GREEDY, logprobs=0).choices[0].logprobs.tokens
    place = next(n for n in range(2, 24) if tokens[n] not in tokens[:n] and tokens[n].isascii())
    (last,) = tokenizer.encode(tokens[place], add_special_tokens=False).ids
    done = complete(client, **GREEDY, stop_token_ids=[last])
    assert (done.choices[0].text, done.choices[0].finish_reason) == ("".join(tokens[:place]), "stop")
    assert done.usage.completion_tokens == place + 1


def test_more_texts_than_slots_come_in_waves_and_in_order(client: OpenAI) -> None:
    prompts = [PROMPT, "\nclass "]
    done = complete(client, prompts, n=10, seed=5, max_tokens=8, ignore_eos=True)
    assert [choice.index for choice in done.choices] == list(range(20))
    assert done.usage.completion_tokens == 20 * 8
    again = complete(client, prompts[:1], n=10, seed=5, max_tokens=8, ignore_eos=True)
    assert [choice.text for choice in again.choices] == [choice.text for choice in done.choices[:10]]


def test_beam_searches_of_many_prompts_come_in_waves(client: OpenAI) -> None:
    done = complete(client, [PROMPT, "\nclass "] * 6, num_beams=3, n=2, max_tokens=8)
    texts = [choice.text for choice in done.choices]
    assert texts == texts[:4] * 6
    assert len(set(texts[:4])) == 4


def test_the_best_of_many_are_returned_and_all_are_counted(client: OpenAI) -> None:
    asked = {"seed": 5, "max_tokens": 12, "ignore_eos": True, "logprobs": 0}
    every = complete(client, n=5, **asked).choices
    best = complete(client, n=2, best_of=5, **asked)
    ranked = sorted(every, key=lambda choice: -sum(choice.logprobs.token_logprobs))
    assert [choice.text for choice in best.choices] == [choice.text for choice in ranked[:2]]
    assert best.usage.completion_tokens == 5 * 12


def test_a_prompt_that_leaves_room_for_one_token_is_served(client: OpenAI) -> None:
    done = complete(client, [list(range(1, 512))], ignore_eos=True)
    assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (511, 1)


def test_a_response_is_verified_among_strangers_and_after_a_restart(
    client: OpenAI, crowded: RunningStack
) -> None:
    ways: list[dict[str, Any]] = [
        {"temperature": 0, "max_output_tokens": 60},
        {"seed": 9, "temperature": 0.9, "max_output_tokens": 60, "frequency_penalty": 0.5, "top_p": 0.95},
        {"num_beams": 3, "temperature": 0, "max_output_tokens": 30},
        {"model": "quiet", "seed": 2, "max_output_tokens": 40},
    ]
    alone = [crowded.end(crowded.submit(input=PROMPT, **way)) for way in ways]
    assert alone[1]["receipt"].items() >= {"model": "starter", "quantization": "int8", "seed": 9}.items()
    models = ("starter", "quiet")
    strangers = [
        crowded.submit(input=f"\nclass A{n}(", model=models[n % 2], seed=n, max_output_tokens=80)
        for n in range(40)
    ]
    assert _same(client, alone) == [True] * 4
    before = crowded.pid("worker")
    os.kill(before, signal.SIGKILL)
    assert _same(client, alone) == [True] * 4
    assert crowded.pid("worker") != before
    assert {crowded.end(job)["status"] for job in strangers} == {"incomplete"}


def _same(client: OpenAI, responses: list[dict[str, Any]]) -> list[bool]:
    """What a verification says of each; all of them run at once."""
    replays: list[Any] = [
        client.post(f"/responses/{each['id']}/verify", cast_to=object) for each in responses
    ]
    return [_ended(client, replay["id"]).model_extra["verification"]["same"] for replay in replays]


def _ended(client: OpenAI, response_id: str) -> Any:
    def look() -> Any:
        found = client.responses.retrieve(response_id, extra_query={"wait": 10})
        return found if found.status in FINAL else None

    return wait_for(look, seconds=60)


def test_an_adapter_speaks_beside_its_model_and_one_too_loud_fails_alone(
    client: OpenAI, crowded: RunningStack
) -> None:
    greedy = {"temperature": 0, "max_output_tokens": 24}
    mixed = [crowded.submit(model=model, **greedy) for model in ("starter", "quiet", "loud") * 4]
    done = [crowded.end(job) for job in mixed]
    texts = [job["output"][0]["content"][0]["text"] if job["output"] else None for job in done]
    assert texts == texts[:3] * 4
    assert texts[0] != texts[1]
    assert {job["error"]["reason"] for job in done[2::3]} == {"numerical_error"}
    assert texts[0] == said(client, prompt="\ndef ", **GREEDY)


def test_a_model_with_nan_in_it_fails_its_jobs_and_takes_nobody_along(
    client: OpenAI, crowded: RunningStack
) -> None:
    others = [crowded.submit(max_output_tokens=60) for _ in range(8)]
    for _ in range(2):  # the second one may be taken before web has heard
        with pytest.raises(openai.APIStatusError, match=r"c_fc\.weight holds NaN"):
            complete(client, model="spoiled")
    assert {crowded.end(job)["status"] for job in others} == {"incomplete"}
    wait_for(lambda: crowded.call("POST", "/v1/completions", {"model": "spoiled"})[0] == 404)
