"""Masks between the sites' own keys: the sum of a group shows, no site's weights do.

A value is a fixed-point number modulo 2^64. Each two sites of a group make one stream
from a secret that they alone share; one adds it to its values, the other subtracts it.
In the sum of the whole group the streams are gone; anything less is noise to whoever
lacks them (Bonawitz et al., 2017, section 4, https://doi.org/10.1145/3133956.3133982;
without its recovery of drop-outs, which reveals seeds).

A masked tensor is bytes, eight a value, little-endian, and is named by its type and its
name: `float32.head.weight`. So it passes as weights of the contract do.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import (
    X25519PrivateKey,
    X25519PublicKey,
)
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from moma_core.end_to_end.signatures import SigningKey, VerifyingKey
from moma_core.errors import CertificateError, FederationError, UpdateRejectedError
from moma_core.federation.aggregation import movements
from moma_core.federation.task import RoundKey, RoundTask, Weights
from moma_core.federation.weights import check_weights
from moma_core.runtime.canonical_json import canonical_json

FEWEST_MASKED: Final = 3
"""Sites in a group: of two, each could subtract its own update from the mean."""

_PURPOSE = "round key"
_VALUE_BYTES = 8
_STEPS = 2.0**32  # of a float, to one: rounded by 1.2e-10
_LARGEST_FLOAT = 2.0**24  # so that a hundred sites stay within 63 bits
_LARGEST_INTEGER = 2.0**40
_ROUNDING = 1.01  # of types and fixed point, in a norm

_Words = NDArray[np.uint64]


class Try(NamedTuple):
    """What a round key is for, and nothing else.

    Args:
        federation: Name of the federation.
        run: Name of the run.
        round: Number of the round.
        try_id: Name of the try; another one has other keys.
        terms: Digest of what the round's training was asked for, see `terms_of`: sites
            whose terms differ find each other's keys signed for something else.
    """

    federation: str
    run: str
    round: int
    try_id: str
    terms: str

    def statement(self, **more: object) -> bytes:
        """Returns the bytes that are signed, or that a mask is derived for."""
        return canonical_json({**self._asdict(), **more})


def terms_of(task: RoundTask) -> str:
    """Returns a digest of the start, the length and the clipping of a training task.

    Were they not the same for all sites of a group, a coordinator could have all but
    one clip to nothing, or take a step where that one takes thousands, and read that
    one in the sum. What counts is what it asked: of the same steps a site with few
    patches makes more epochs.
    """
    norm = None if task.masking is None else task.masking.max_update_norm
    asked = (
        task.local_epochs if task.requested_epochs is None else task.requested_epochs
    )
    terms = [task.rounds, norm, start_digest(task), asked, task.local_steps]
    return hashlib.sha256(canonical_json(terms)).hexdigest()


def start_digest(task: RoundTask) -> str:
    """Returns the digest of the student that a task sends; empty: it sends none."""
    return "" if task.weights is None else weights_digest(task.weights)


def weights_digest(weights: Weights) -> str:
    """Returns the SHA-256 of names, types, shapes and values, hex."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        array = weights[name]
        form = canonical_json([name, array.dtype.str, list(array.shape)])
        digest.update(len(form).to_bytes(8, "big") + form)
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


class MaskingKey:
    """A site's secret for one try; it masks one update, and is gone.

    It lives in memory alone. Two updates under one mask would show their difference.

    Args:
        for_try: The try that it is made for.
        site: Name of the site.
        signing_key: Key of the site that its partners have pinned.
    """

    def __init__(self, for_try: Try, site: str, signing_key: SigningKey) -> None:
        self.for_try = for_try
        self._secret: X25519PrivateKey | None = X25519PrivateKey.generate()
        key = self._secret.public_key().public_bytes_raw().hex()
        signature = signing_key.sign(_PURPOSE, for_try.statement(site=site, key=key))
        self.public = RoundKey(site=site, key=key, signature=signature.hex())

    def masked(self, update: Weights, partners: Collection[RoundKey]) -> Weights:
        """Returns an update under the masks with all partners.

        Args:
            update: Weights that a mean can be made of.
            partners: Keys of the rest of the group, which `check_group` has returned.

        Raises:
            FederationError: The key has masked an update already, or a partner's is
                none.
            UpdateRejectedError: A value is too large, or is none.
        """
        secret, self._secret = self._secret, None
        if secret is None:
            raise FederationError("a key masks one update, and this one has")
        check_weights(update)
        signs = [self.public.site < partner.site for partner in partners]
        streams = [self._stream(secret, partner) for partner in partners]
        masked: dict[str, NDArray[Any]] = {}
        for name in sorted(update):
            array = update[name]
            words = _fixed_point(name, array)
            for adds, stream in zip(signs, streams, strict=True):
                mask = np.frombuffer(stream.update(bytes(words.nbytes)), "<u8")
                words = words + mask if adds else words - mask
            octets = words.astype("<u8").view(np.uint8)
            shape = (*array.shape, _VALUE_BYTES)
            masked[f"{array.dtype.name}.{name}"] = octets.reshape(shape)
        return masked

    def _stream(self, secret: X25519PrivateKey, partner: RoundKey) -> CipherContext:
        try:
            public = X25519PublicKey.from_public_bytes(bytes.fromhex(partner.key))
            shared = secret.exchange(public)
        except ValueError:
            raise FederationError(f"the key of {partner.site} is none") from None
        pair = sorted((self.public.site, partner.site))
        info = self.for_try.statement(purpose="moma.v1 mask", pair=pair)
        key = HKDF(SHA256(), length=32, salt=None, info=info).derive(shared)
        # the key is for this one stream, so the counter may begin at 0
        return Cipher(algorithms.AES256(key), CTR(bytes(16))).encryptor()


def check_group(
    group: Sequence[RoundKey],
    own: MaskingKey,
    pinned: Mapping[str, VerifyingKey],
    fewest: int,
) -> list[RoundKey]:
    """Returns the keys of a site's partners in a group that it may mask for.

    Args:
        group: Keys as the coordinator hands them out, the site's own among them.
        own: The site's key of the try.
        pinned: Signing keys of the partners, by name, written down by hand.
        fewest: Sites of the smallest group that the site accepts, itself included.

    Raises:
        FederationError: The group is too small, names a stranger or leaves the site
            out, a key repeats, or one is not its site's for this try.
    """
    if len(group) < fewest:
        raise FederationError(
            f"a group of {len(group)} sites is smaller than {fewest}, its smallest here"
        )
    names, keys = {each.site for each in group}, {each.key for each in group}
    if not len(names) == len(keys) == len(group):
        raise FederationError("a site or a key of the group repeats")
    if own.public not in group:
        raise FederationError("the group is without this site's key of this try")
    partners = [each for each in group if each != own.public]
    for each in partners:
        signer = pinned.get(each.site)
        if signer is None:
            raise FederationError(f"{each.site} is no partner whose key is pinned here")
        statement = own.for_try.statement(site=each.site, key=each.key)
        try:
            signer.check(_PURPOSE, statement, bytes.fromhex(each.signature))
        except CertificateError:
            raise FederationError(
                f"the key of {each.site} is not signed by the pinned one for this try"
            ) from None
    return partners


def clipped(
    weights: Weights, start: Weights, max_norm: float
) -> tuple[dict[str, NDArray[Any]], float]:
    """Returns weights whose floats moved no further than `max_norm`, as an L2 norm.

    Args:
        weights: Student of a site after the round.
        start: Weights from which it trained.
        max_norm: Norm of the whole movement, batch-norm statistics included, > 0.

    Returns:
        The weights, and the norm before they were clipped.

    Raises:
        UpdateRejectedError: They differ in form from the start, or a value is none.
    """
    check_weights(weights, start)
    (norm,) = movements([weights], start)
    share = min(1.0, max_norm / norm) if norm else 1.0
    if share == 1.0:
        return dict(weights), norm
    return {
        name: _between(start[name], array, share) if array.dtype.kind == "f" else array
        for name, array in weights.items()
    }, norm


class MaskedSum:
    """Adds masked updates; with the last of the group the masks are gone.

    It holds the sum alone, no update.

    Args:
        start: Student from which the round went out; None: the first update says what
            the form is.
    """

    def __init__(self, start: Weights | None) -> None:
        self._start = start
        self._total: dict[str, _Words] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._count = 0
        if start is not None:
            self._shapes = {
                f"{array.dtype.name}.{name}": (*array.shape, _VALUE_BYTES)
                for name, array in start.items()
            }

    def add(self, update: Weights) -> None:
        """Adds one site's masked update.

        Raises:
            UpdateRejectedError: It is none, or of another form than the others.
        """
        for name, array in update.items():
            if array.dtype != np.uint8 or array.shape[-1:] != (_VALUE_BYTES,):
                raise UpdateRejectedError(f"{name} is no masked tensor")
            if name.partition(".")[0] not in _TYPES or not name.partition(".")[2]:
                raise UpdateRejectedError(f"{name} does not begin with its type")
        shapes = {name: array.shape for name, array in update.items()}
        if not shapes or shapes != (self._shapes or shapes):
            raise UpdateRejectedError("the masked update is of another form")
        self._shapes = shapes
        for name, array in update.items():
            words = array.reshape(-1).view("<u8")
            self._total[name] = self._total.get(name, np.uint64(0)) + words
        self._count += 1

    def mean(self, max_norm: float) -> dict[str, NDArray[Any]]:
        """Returns the group's mean, once every site of it was added.

        Args:
            max_norm: Norm to which every site had to clip its movement.

        Raises:
            UpdateRejectedError: The sum is none of clipped updates.
        """
        mean = {}
        for masked_name, total in self._total.items():
            kind, _, name = masked_name.partition(".")
            values = _opened(name, total, np.dtype(kind), self._count)
            mean[name] = values.reshape(self._shapes[masked_name][:-1])
        check_weights(mean, self._start)
        if self._start is not None:
            (norm,) = movements([mean], self._start)
            if norm > max_norm * _ROUNDING:
                raise UpdateRejectedError(
                    f"the mean moved by {norm:.3g}, sites clip to {max_norm:.3g}"
                )
        return mean


_TYPES = frozenset({"float16", "float32", "float64", "int32", "int64", "uint8"})


def _fixed_point(name: str, array: NDArray[Any]) -> _Words:
    values = array.reshape(-1)
    if array.dtype.kind != "f":
        return values.astype(np.int64).view(np.uint64)
    if values.size and float(np.abs(values).max()) > _LARGEST_FLOAT:
        raise UpdateRejectedError(f"{name} holds a value beyond {_LARGEST_FLOAT:g}")
    scaled = np.rint(values.astype(np.float64) * _STEPS)
    return scaled.astype(np.int64).view(np.uint64)


def _opened(name: str, total: _Words, dtype: np.dtype[Any], count: int) -> NDArray[Any]:
    """Returns the mean; a sum whose masks do not cancel is beyond every value."""
    mean = total.view(np.int64).astype(np.float64) / count
    mean = mean / _STEPS if dtype.kind == "f" else np.rint(mean)
    low, high = _range(dtype)
    if mean.size and not (mean.min() >= low and mean.max() <= high):
        raise UpdateRejectedError(f"the masks of {name} do not cancel")
    return mean.astype(dtype)


def _range(dtype: np.dtype[Any]) -> tuple[float, float]:
    """Returns the smallest and the largest value that a mean may have."""
    if dtype.kind == "f":
        largest = min(_LARGEST_FLOAT, float(np.finfo(dtype).max))
        return -largest, largest
    info = np.iinfo(dtype)
    return max(info.min, -_LARGEST_INTEGER), min(info.max, _LARGEST_INTEGER)


def _between(start: NDArray[Any], end: NDArray[Any], share: float) -> NDArray[Any]:
    wide = start.astype(np.float64)
    return np.array(wide + share * (end - wide), dtype=end.dtype)
