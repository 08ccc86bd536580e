"""A plain training loop for GPT-2, written from nanoGPT's published description.

Blocks of consecutive tokens drawn at random, scaled-dot-product attention, no dropout, AdamW (fused, betas
0.9 and 0.95, decay 0.1 on matrices), clipping at 1, bf16 autocast; the loss over all logits.
"""

import sys

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.training.turns import Turns

WIDTH, HEADS, LAYERS, CONTEXT, VOCABULARY = 768, 12, 12, 1024, 50257


class Attention(nn.Module):
    """Causal."""

    def __init__(self) -> None:
        super().__init__()
        self.c_attn = nn.Linear(WIDTH, 3 * WIDTH)
        self.c_proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, hidden: Tensor) -> Tensor:
        rows, tokens, _ = hidden.shape
        parts = self.c_attn(hidden).split(WIDTH, dim=2)
        query, key, value = (one.view(rows, tokens, HEADS, -1).transpose(1, 2) for one in parts)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        out: Tensor = self.c_proj(mixed.transpose(1, 2).contiguous().view(rows, tokens, WIDTH))
        return out


class Block(nn.Module):
    """One layer."""

    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attn = Attention()
        self.c_fc, self.c_proj = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = hidden + self.attn(self.ln_1(hidden))
        out: Tensor = hidden + self.c_proj(functional.gelu(self.c_fc(self.ln_2(hidden))))
        return out


class GPT(nn.Module):
    """The output shares the weights of the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.h = nn.ModuleList(Block() for _ in range(LAYERS))
        self.ln_f = nn.LayerNorm(WIDTH)
        self.lm_head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.lm_head.weight = self.wte.weight
        for one in self.parameters():
            if one.dim() > 1:
                nn.init.normal_(one, std=0.02)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        hidden = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1]))
        for block in self.h:
            hidden = block(hidden)
        logits = self.lm_head(self.ln_f(hidden))
        return functional.cross_entropy(logits.view(-1, VOCABULARY), targets.view(-1))


def main(rows: int, block: int) -> None:
    """Train on random tokens: only the speed is looked at."""
    torch.manual_seed(0)
    model, data = GPT(), torch.randint(VOCABULARY, (1_000_000,))
    matrices = [one for one in model.parameters() if one.dim() > 1]
    vectors = [one for one in model.parameters() if one.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=6e-4, betas=(0.9, 0.95), fused=True)

    def step() -> int:
        starts = torch.randint(len(data) - block, (rows,))
        tokens = torch.stack([data[at : at + block] for at in starts])
        targets = torch.stack([data[at + 1 : at + 1 + block] for at in starts])
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(tokens, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return tokens.numel()

    Turns().serve(step)


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[3]))
    main(int(sys.argv[1]), int(sys.argv[2]))
