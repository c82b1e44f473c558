"""How a version comes to exist, whole or not at all: its files first, its card last, and what failed removed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from penstock import card as cards
from penstock import manifest, store
from penstock.card import Card, CleanCard
from penstock.console import Console
from penstock.errors import DatasetError

AnyCard = TypeVar("AnyCard", Card, CleanCard)


def publish_card(folder: str, card: AnyCard, urls: list[str], console: Console) -> AnyCard:
    """The card that stands for this version. `urls` are those of its files, which stay where publishing fails.

    For a card may be there though its writer got an error, as from a NameNode that answers too late.
    """
    mine = urls.copy()
    urls.clear()
    if cards.publish(folder, card):
        return card
    remove(console, *mine)  # another job made this version meanwhile: the first card stands
    first = cards.find(folder, card.version)
    assert isinstance(first, type(card))
    return first


@contextmanager
def removed_on_failure(console: Console, *urls: str) -> Iterator[list[str]]:
    """Yields what is to be removed."""
    to_remove = list(urls)
    try:
        yield to_remove
    except BaseException:
        remove(console, *to_remove)
        raise


def remove(console: Console, *urls: str) -> None:
    """Where the storage fails, what ended the job stays what is told."""
    for url in urls:
        try:
            store.remove(url)
        except Exception as error:
            why = f"{type(error).__name__}: {error}".partition("\n")[0]
            console.say(f"{store.shown(url)} stays ({why}); `penstock gc` removes it")


def check_whole(out: str, card: Card) -> None:
    """A version that is used again has all its files, each of its length; `penstock verify` looks at every byte."""
    listed = manifest.read(out, card)
    sizes = store.file_sizes(listed.data_url)
    if any(sizes.get(file) != num_bytes for file, (num_bytes, _) in listed.files.items()):
        raise DatasetError(damaged(listed.data_url, out, card.version))


def damaged(data_url: str, folder: str, version: str) -> str:
    where = store.shown(store.join(folder, "cards", f"{version}.json"))
    return (
        f"{store.shown(data_url)}: files of version {version} are missing or have another length than when they "
        f"were published; remove its card {where} and run again"
    )
