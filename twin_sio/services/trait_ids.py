"""What traits are called. Where text is sealed a key has a part in it, so that nobody can guess a trait from its id."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from twin_sio.agent.traits import names_of, trait_id
from twin_sio.domain import Trait


class TraitIds:
    """The ids of traits, and those of before there was a key, which clients and stored answers still hold."""

    def __init__(self, subject: Callable[[str], str] = str) -> None:
        """`subject`: what stands for a user in ids of traits (`store.ids.Ids.subject`)."""
        self.subject = subject

    def of(self, user_id: str, key: str, name: str) -> str:
        """What the trait is called whose value has this name (`traits.own_name`)."""
        return trait_id(self.subject(user_id), key, name)

    def all(self, user_id: str, key: str, name: str) -> tuple[str, ...]:
        """What the trait is called, and what it was called before."""
        now, before = self.of(user_id, key, name), trait_id(user_id, key, name)
        return (now,) if now == before else (now, before)

    def find(self, user_id: str, wanted: str, traits: Iterable[Trait]) -> Trait | None:
        """The trait that is, or was, called so, also where it is one with another by now; under its id of today."""
        known = list(traits)
        for trait in known:
            if trait.trait_id == wanted:
                return self._named(user_id, trait)
        for trait in known:
            if any(wanted in self.all(user_id, trait.key, name) for name in names_of(trait)):
                return self._named(user_id, trait)
        return None

    def renamed(self, user_id: str, traits: Iterable[Trait]) -> tuple[Trait, ...]:
        """All of them under their ids of today."""
        return tuple(self._named(user_id, trait) for trait in traits)

    def _named(self, user_id: str, trait: Trait) -> Trait:
        return replace(trait, trait_id=self.of(user_id, trait.key, names_of(trait)[0]))
