"""A finished run's language model goes on with a text: `penstock generate RUN --prompt …`, token by token.

The recipe's model holds a LanguageModel (train/models/transformer.py), and its model.py says with `speaks(config)` the
field whose tokeniser that speaks, and the tokens that every text begins with. The same seed gives the same text.

A text may become longer than the model's context: whenever that is full, the older half of it is forgotten and the
newer one read again. So the text does not depend on whether a cache of keys and values is used; only its speed does.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from tokenizers.decoders import DecodeStream
from torch import Tensor

from penstock import command, store, tokens
from penstock.console import Console
from penstock.errors import RunError
from train import cpu
from train.distributed import choose_device
from train.finished import Finished, load
from train.models.transformer import Cache, LanguageModel

CONTRACT = (
    'say in model.py `def speaks(config): return "field", [first tokens]`, and make a LanguageModel in build_model'
)


@torch.no_grad()
def generated(
    model: LanguageModel,
    prompt: Sequence[int],
    *,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
    cached: bool = True,
    never: Sequence[int] = (),
) -> Iterator[int]:
    """Token after token behind the prompt's, one or more, without end, and none of those that are `never` said."""
    device, context = model.head.weight.device, model.shape.context
    chance = torch.Generator().manual_seed(seed)
    text = list(prompt)[-(context - 1) :]
    cache, unread = None, text  # tokens that the cache has not seen
    while True:
        if len(text) == context:  # with the next token it would be more
            text = text[context // 2 :]
            cache, unread = None, text
        if cached and cache is None:
            cache = Cache.empty(model.shape, 1, model.head.weight)
        read = torch.tensor([unread if cached else text], device=device)
        logits = model(read, cache=cache)[0, -1].float().cpu()
        logits[list(never)] = -torch.inf
        token = drawn(logits, temperature, top_p, float(torch.rand((), generator=chance, dtype=torch.float64)))
        yield token
        text = [*text, token]
        unread = [token]


def drawn(logits: Tensor, temperature: float, top_p: float, chance: float) -> int:
    """A token by its probability, softmax(logits / temperature), of those that together have at least `top_p`.

    They are the likeliest ones, as few as possible; `chance`, 0 to below 1, says which, in the order of the vocabulary:
    that of probabilities that are nearly equal would change with their rounding. Temperature 0 is the likeliest.

    Source: top-p or nucleus sampling: Holtzman et al., arXiv:1904.09751, section 3.1.
    """
    if temperature == 0:
        return int(logits.argmax())
    p = (logits.double() / temperature).softmax(dim=0)
    ranked, order = p.sort(descending=True, stable=True)
    kept = torch.zeros_like(p)
    kept[order] = ranked * (ranked.cumsum(dim=0) - ranked < top_p)  # likelier tokens do not have top_p yet
    up_to = kept.cumsum(dim=0)
    return int(torch.searchsorted(up_to, chance * up_to[-1], right=True))


def language_model(finished: Finished) -> tuple[LanguageModel, str, list[int]]:
    """The model, the field whose tokeniser it speaks, and the tokens that a text begins with. Raises: RunError."""
    found = [module for module in finished.model.modules() if isinstance(module, LanguageModel)]
    speaks = getattr(finished.recipe, "speaks", None)
    if len(found) != 1 or speaks is None:
        raise RunError(
            f"{finished.run}: recipe {finished.described['recipe']!r} generates no text: expected one LanguageModel "
            f"and `speaks`, found {len(found)} and {'one' if speaks else 'none'}; {CONTRACT}"
        )
    field, begin = speaks(finished.config)
    return found[0], field, list(begin)


def generate(
    run: str,
    prompt: str,
    console: Console,
    *,
    max_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
    device: torch.device,
    compare_cache: bool = False,
) -> dict[str, Any]:
    """Streams a text to standard output, and returns it with the tokens per second that it took.

    Raises: RunError for a run that generates no text, a prompt without a token, and settings without a meaning.
    """
    _check(max_tokens, temperature, top_p)
    finished = load(run)
    model, field, begin = language_model(finished)
    tokenizer = tokens.tokenizer(finished.card, field)
    asked = begin + tokenizer.encode(prompt).ids
    if not asked:
        raise RunError("--prompt: expected one token or more, found an empty text; say how the text begins")
    model.to(device)
    ours = [token for name in (tokens.PADDING, tokens.UNKNOWN) if (token := tokenizer.token_to_id(name)) is not None]
    sampling: dict[str, Any] = {"temperature": temperature, "top_p": top_p, "seed": seed, "never": ours}

    def timed(cached: bool, show: bool) -> tuple[list[int], float]:
        stream, made, start = DecodeStream(skip_special_tokens=False), [], time.monotonic()
        if show:
            console.stream(prompt)
        for token in islice(generated(model, asked, cached=cached, **sampling), max_tokens):
            made.append(token)
            if show and (text := stream.step(tokenizer, token)):
                console.stream(text)
        return made, len(made) / max(1e-9, time.monotonic() - start)

    made, speed = timed(cached=True, show=True)
    console.stream("\n")
    told: dict[str, Any] = {"text": prompt + tokenizer.decode(made), "tokens": len(made), "tokens_per_s": speed}
    console.say(f"{len(made):,} tokens, {speed:,.0f} tokens/s with a cache of keys and values")
    if compare_cache:
        again, told["tokens_per_s_without_cache"] = timed(cached=False, show=False)
        told["same_without_cache"] = again == made
        same = "the same text" if again == made else "another text, by rounding"
        console.say(f"{told['tokens_per_s_without_cache']:,.0f} tokens/s without it: {same}")
    return told


def _check(max_tokens: int, temperature: float, top_p: float) -> None:
    for holds, what in (
        (max_tokens >= 1, f"--max-tokens: expected 1 or more, found {max_tokens}"),
        (0 <= temperature < float("inf"), f"--temperature: expected 0 or more, found {temperature}"),
        (0 < top_p <= 1, f"--top-p: expected a share above 0, up to 1, found {top_p}"),
    ):
        if not holds:
            raise RunError(what)


def parser() -> argparse.ArgumentParser:
    made = command.parser(
        "generate",
        "Go on with a text, token by token, by the language model of a finished run.",
        "penstock generate /data/runs/1 --prompt 'ROMEO:' --max-tokens 500 --temperature 0.8 --top-p 0.95 --seed 1",
    )
    made.add_argument("run", metavar="RUN", help="the folder of a finished run, local or a URL")
    made.add_argument("--prompt", default="\n", help="how the text begins; default: an empty line")
    made.add_argument("--max-tokens", type=int, default=300, metavar="N", help="default: 300")
    made.add_argument("--temperature", type=float, default=0.8, help="0: always the likeliest token; default: 0.8")
    made.add_argument("--top-p", type=float, default=1.0, metavar="P", help="only the likeliest tokens that have P")
    made.add_argument("--seed", type=int, default=0, help="default: 0; the same seed gives the same text")
    made.add_argument("--compare-cache", action="store_true", help="generate again without the cache, and say how fast")
    made.add_argument("--device", default="auto", help="auto (default), cpu, cuda")
    return made


def work(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    cpu.keep_memory()
    return generate(
        store.shown(store.absolute(arguments.run)),
        arguments.prompt,
        console,
        max_tokens=arguments.max_tokens,
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        seed=arguments.seed,
        device=choose_device(arguments.device),
        compare_cache=arguments.compare_cache,
    )


def main(argv: Sequence[str] | None = None) -> int:
    return command.execute(parser().parse_args(argv), work)


if __name__ == "__main__":
    sys.exit(main())
