import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from trainer import cross_entropy
from trainer.cross_entropy import LEFT_OUT
from trainer.network import BLOCK, Student, fused, quickened, reach, sliced, visible

VOCABULARY, CONTEXT = 211, 2 * BLOCK + 40


@pytest.fixture
def config() -> GPT2Config:
    torch.manual_seed(0)
    return GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=CONTEXT,
        n_embd=32,
        n_layer=2,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
    )


@pytest.fixture
def pair(config: GPT2Config) -> tuple[Student, GPT2LMHeadModel]:
    """The network that learns, and transformers' own with the same weights and no dropout."""
    student = Student(config)
    theirs = GPT2LMHeadModel(config).eval()
    theirs.load_state_dict(student.state_dict())
    return quickened(student).train(), theirs


def shifted(tokens: Tensor, lengths: list[int]) -> tuple[Tensor, Tensor]:
    """Positions and labels of rows in which documents of these lengths stand behind each other."""
    positions = torch.cat([torch.arange(length) for length in lengths]).expand(len(tokens), -1)
    labels = torch.full_like(tokens, LEFT_OUT)
    start = 0
    for length in lengths:
        labels[:, start : start + length - 1] = tokens[:, start + 1 : start + length]
        start += length
    return positions, labels


def gradients(model: torch.nn.Module) -> list[Tensor]:
    return [one.grad for one in model.parameters() if one.grad is not None]


def assert_same_gradients(ours: torch.nn.Module, theirs: torch.nn.Module) -> None:
    pairs = zip(gradients(ours), gradients(theirs), strict=True)
    assert max(float((one - other).abs().max()) for one, other in pairs) < 1e-6


def test_loss_and_gradients_are_those_of_transformers(pair: tuple[Student, GPT2LMHeadModel]) -> None:
    ours, theirs = pair
    tokens = torch.randint(VOCABULARY, (3, CONTEXT))
    _, labels = shifted(tokens, [CONTEXT])
    found = ours(tokens, labels=labels)
    expected = theirs(tokens, labels=tokens)
    assert found["loss"].item() == pytest.approx(expected.loss.item(), abs=1e-5)
    right = (expected.logits[:, :-1].argmax(-1) == tokens[:, 1:]).sum()
    assert int(found["right"]) == int(right)
    found["loss"].backward()
    expected.loss.backward()
    assert_same_gradients(ours, theirs)


def test_documents_in_one_row_learn_as_each_alone(pair: tuple[Student, GPT2LMHeadModel]) -> None:
    ours, theirs = pair
    lengths = [5, BLOCK, 60, CONTEXT - BLOCK - 65]
    tokens = torch.randint(VOCABULARY, (2, CONTEXT))
    positions, labels = shifted(tokens, lengths)
    loss = ours(tokens, position_ids=positions, labels=labels, reach=reach(positions))["loss"]
    loss.backward()
    documents = [document[None] for row in tokens for document in row.split(lengths)]
    learned = sum(document.shape[1] - 1 for document in documents)
    alone = sum(theirs(one, labels=one).loss * (one.shape[1] - 1) for one in documents) / learned
    assert isinstance(alone, Tensor)
    alone.backward()
    assert loss.item() == pytest.approx(alone.item(), abs=1e-5)
    assert_same_gradients(ours, theirs)


def test_rows_that_are_divided_differently_still_see_only_their_own_documents(
    pair: tuple[Student, GPT2LMHeadModel],
) -> None:
    ours, _ = pair
    tokens = torch.randint(VOCABULARY, (2, CONTEXT))
    one, two = shifted(tokens[:1], [CONTEXT]), shifted(tokens[1:], [200, CONTEXT - 200])
    positions, labels = torch.cat([one[0], two[0]]), torch.cat([one[1], two[1]])
    both = ours(tokens, position_ids=positions, labels=labels, reach=reach(positions))["loss"].item()
    counts = [int((each != LEFT_OUT).sum()) for each in labels]
    alone = [
        ours(tokens[i : i + 1], position_ids=p, labels=t, reach=reach(p))["loss"].item() * count
        for i, (p, t), count in zip((0, 1), (one, two), counts, strict=True)
    ]
    assert both == pytest.approx(sum(alone) / sum(counts), abs=1e-5)


def test_only_what_is_learned_counts(pair: tuple[Student, GPT2LMHeadModel]) -> None:
    ours, theirs = pair
    tokens = torch.randint(VOCABULARY, (2, 50))
    _, labels = shifted(tokens, [50])
    labels[:, :30] = LEFT_OUT
    theirs_labels = tokens.clone()
    theirs_labels[:, :31] = LEFT_OUT
    found, expected = ours(tokens, labels=labels)["loss"], theirs(tokens, labels=theirs_labels).loss
    assert found.item() == pytest.approx(expected.item(), abs=1e-5)
    found.backward()
    expected.backward()
    assert_same_gradients(ours, theirs)


def test_a_pass_without_anything_to_learn_changes_nothing(pair: tuple[Student, GPT2LMHeadModel]) -> None:
    ours, _ = pair
    tokens = torch.randint(VOCABULARY, (1, 20))
    found = ours(tokens, labels=torch.full_like(tokens, LEFT_OUT))
    found["loss"].backward()
    assert found["loss"].item() == 0.0
    assert all(not one.any() for one in gradients(ours))


@pytest.mark.parametrize("tokens", [3, 50])
def test_the_loss_in_pieces_is_that_of_all_logits(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_entropy, "CHUNK_BYTES", 4 * VOCABULARY * 7)  # seven tokens
    monkeypatch.setattr(cross_entropy, "GROUP", 20)
    torch.manual_seed(1)
    hidden = torch.randn(1, tokens, 16, requires_grad=True)
    weight = torch.randn(VOCABULARY, 16, requires_grad=True)
    labels = torch.randint(VOCABULARY, (1, tokens))
    loss, _ = cross_entropy.mean(hidden, weight, labels, torch.tensor(tokens))
    found = torch.autograd.grad(loss * 2, (hidden, weight))
    whole = torch.nn.functional.cross_entropy((hidden @ weight.T).flatten(0, 1), labels.flatten())
    expected = torch.autograd.grad(whole * 2, (hidden, weight))
    assert loss.item() == pytest.approx(whole.item(), abs=1e-5)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_generating_with_a_cache_is_as_transformers_does(pair: tuple[Student, GPT2LMHeadModel]) -> None:
    ours, theirs = pair
    prompt = torch.randint(1, VOCABULARY, (1, 9))
    how = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(ours.eval().generate(prompt, **how), theirs.generate(prompt, **how))


def test_attention_in_slices_is_that_of_torchs_kernel() -> None:
    torch.manual_seed(2)
    query, key, value = (torch.randn(2, 3, CONTEXT, 8) for _ in range(3))
    positions, _ = shifted(torch.zeros(2, CONTEXT, dtype=torch.int64), [150, 30, CONTEXT - 180])
    for mask, far in ((None, None), (visible(positions, torch.float32), reach(positions))):
        one, other = sliced(query, key, value, mask, 0.3, far), fused(query, key, value, mask, 0.3)
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
