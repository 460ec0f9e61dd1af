"""Held against the vectors of certificate-transparency and against RFC 6962's text."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moma_core.audit import merkle
from moma_core.audit.merkle import Frontier, MerkleNode, leaf_hash

LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = (
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)
A = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"
B = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"
C = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"
D = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"
E = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"
F = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"
INCLUSION = {  # (leaf, size), the leaf counted from 0
    (0, 1): (),
    (0, 8): (A, B, C),
    (5, 8): (D, E, ROOTS[4]),
    (2, 3): (ROOTS[2],),
    (1, 5): (ROOTS[1], B, D),
}
CONSISTENCY = {
    (1, 1): (),
    (1, 8): (A, B, C),
    (6, 8): (F, E, ROOTS[4]),
    (2, 5): (B, D),
}


class Tree:
    """A tree and all of its nodes."""

    def __init__(self, leaves: list[bytes]) -> None:
        self.frontier = Frontier()
        self.nodes: dict[MerkleNode, bytes] = {}
        for index, leaf in enumerate(leaves):
            for level, node in enumerate(self.frontier.push(leaf_hash(leaf))):
                self.nodes[MerkleNode(level, index >> level)] = node

    def inclusion(self, index: int, size: int) -> list[bytes]:
        terms = merkle.inclusion_terms(index, size)
        return merkle.resolve(terms, self.nodes.__getitem__)

    def consistency(self, first: int, second: int) -> list[bytes]:
        terms = merkle.consistency_terms(first, second)
        return merkle.resolve(terms, self.nodes.__getitem__)


def by_the_text(leaves: list[bytes]) -> bytes:
    """Returns MTH(D[n]) as RFC 6962, section 2.1, defines it."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return sha256(b"\x00" + leaves[0]).digest()
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return sha256(b"\x01" + by_the_text(leaves[:k]) + by_the_text(leaves[k:])).digest()


@pytest.mark.parametrize("size", range(9))
def test_roots_are_those_of_the_known_vectors(size: int) -> None:
    tree = Tree(LEAVES[:size])

    assert tree.frontier.root().hex() == ROOTS[size]


@pytest.mark.parametrize(("place", "proof"), INCLUSION.items())
def test_proofs_of_inclusion_are_those_of_the_known_vectors(
    place: tuple[int, int], proof: tuple[str, ...]
) -> None:
    index, size = place

    found = Tree(LEAVES).inclusion(index, size)

    assert tuple(part.hex() for part in found) == proof
    root = bytes.fromhex(ROOTS[size])
    assert merkle.is_included(leaf_hash(LEAVES[index]), index, size, found, root)


@pytest.mark.parametrize(("sizes", "proof"), CONSISTENCY.items())
def test_proofs_of_consistency_are_those_of_the_known_vectors(
    sizes: tuple[int, int], proof: tuple[str, ...]
) -> None:
    first, second = sizes

    found = Tree(LEAVES).consistency(first, second)

    assert tuple(part.hex() for part in found) == proof
    roots = [(size, bytes.fromhex(ROOTS[size])) for size in sizes]
    assert merkle.is_consistent(roots[0], roots[1], found)


Leaves = st.lists(st.binary(max_size=4), min_size=1, max_size=70)


@given(Leaves, st.data())
def test_every_leaf_is_shown_to_be_in_every_tree_and_nowhere_else(
    leaves: list[bytes], data: st.DataObject
) -> None:
    size = data.draw(st.integers(1, len(leaves)))
    index = data.draw(st.integers(0, size - 1))
    root = by_the_text(leaves[:size])

    proof = Tree(leaves).inclusion(index, size)

    leaf = leaf_hash(leaves[index])
    assert merkle.is_included(leaf, index, size, proof, root)
    assert not merkle.is_included(leaf_hash(b"other"), index, size, proof, root)
    assert not merkle.is_included(leaf, index, size, [*proof, leaf], root)
    assert not merkle.is_included(leaf, size, size, proof, root)
    for position in range(len(proof)):
        short = proof[:position] + proof[position + 1 :]
        assert not merkle.is_included(leaf, index, size, short, root)


@given(Leaves, st.data())
def test_a_tree_is_shown_to_have_grown_from_its_beginning_and_from_no_other(
    leaves: list[bytes], data: st.DataObject
) -> None:
    second = data.draw(st.integers(1, len(leaves)))
    first = data.draw(st.integers(1, second))
    old, new = by_the_text(leaves[:first]), by_the_text(leaves[:second])

    proof = Tree(leaves).consistency(first, second)

    assert merkle.is_consistent((first, old), (second, new), proof)
    for root in (leaf_hash(b"other"), b""):
        assert not merkle.is_consistent((first, root), (second, new), proof)
        assert not merkle.is_consistent((first, old), (second, root), proof)
    assert not merkle.is_consistent((first, old), (second, new), [*proof, old])
    for position in range(len(proof)):
        short = proof[:position] + proof[position + 1 :]
        assert not merkle.is_consistent((first, old), (second, new), short)


@given(Leaves)
def test_a_frontier_goes_on_from_its_bytes(leaves: list[bytes]) -> None:
    half = len(leaves) // 2
    written = Tree(leaves[:half]).frontier

    frontier = Frontier.from_bytes(half, written.to_bytes())
    for leaf in leaves[half:]:
        frontier.push(leaf_hash(leaf))

    assert frontier.root() == by_the_text(leaves)


def test_a_damaged_frontier_is_refused() -> None:
    with pytest.raises(ValueError, match="1 peaks are no tree of 3 leaves"):
        Frontier.from_bytes(3, bytes(32))
    with pytest.raises(ValueError, match="33 bytes are no whole number"):
        Frontier.from_bytes(1, bytes(33))


def test_proofs_about_what_is_not_there_are_refused() -> None:
    with pytest.raises(ValueError, match="a log of 3 entries has no entry 3"):
        merkle.inclusion_terms(3, 3)
    with pytest.raises(ValueError, match="no proof leads from 0 entries to 3"):
        merkle.consistency_terms(0, 3)
    with pytest.raises(ValueError, match="no proof leads from 4 entries to 3"):
        merkle.consistency_terms(4, 3)
