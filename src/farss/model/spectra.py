"""Spectra of weights, decomposed once per weight and route and kept on disk for every later task, rank and method."""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path
from typing import get_args

from farss.errors import StorageError
from farss.maths.choice import Choice, named_route
from farss.maths.routes import Route
from farss.maths.spectrum import Spectrum, decompose
from farss.model.fingerprints import weight_hash
from farss.model.targets import Target, weight_matrix
from farss.reading import Document, object_of, unless_damaged
from farss.storage import read_tensors, write_json, write_tensors

FORMAT = "farss-spectrum-1"
ROUTE = Document("note of a route", StorageError)
HEAD = Document("head of a spectrum", StorageError)
NOTED = object_of(route={"enum": list(get_args(Route))})


class SpectrumCache:
    """Spectra by weight content, so that a changed weight never gets an old spectrum.

    Args:
        folder: where spectra are kept, one safetensors file each; None keeps nothing on disk.
        memo: whether this object also keeps what it has returned (k*k numbers per weight).

    Attributes:
        decomposed: how many weights this object has decomposed, rather than read.
    """

    def __init__(self, folder: str | Path | None, *, memo: bool = False) -> None:
        self.folder = None if folder is None else Path(folder)
        self._memo: dict[str, Spectrum] | None = {} if memo else None
        self.decomposed = 0

    def get(self, target: Target, route: Choice = "gram") -> Spectrum:
        """The spectrum of the target's weight [m, n]: from memory, from disk, or decomposed now.

        With "auto" the route is the one noted in the folder for this weight, else it is chosen and noted there: a plan
        numbers directions by their place in one spectrum, so a later process, whose timing might choose otherwise, is
        given that same spectrum, which is kept under its route's own name.

        A cache file that is damaged or does not fit is decomposed anew and replaced, with a warning.

        Raises:
            NumericalError: if the weight holds NaN or Inf.
            StorageError: if a new spectrum cannot be written.
        """
        weight = weight_matrix(target)
        content = weight_hash(weight)
        named = self._noted(target, content) if route == "auto" else route
        key = spectrum_key(content, named)
        if self._memo is not None and key in self._memo:
            return self._memo[key]
        spectrum = self._read(key, target)
        if spectrum is None:
            spectrum = decompose(weight, named)
            self.decomposed += 1
            self._write(key, spectrum)
        if self._memo is not None:
            self._memo[key] = spectrum
        return spectrum

    def _noted(self, target: Target, content: str) -> Route:
        """The route that "auto" means for this weight, noted on disk where there is a folder."""
        weight = weight_matrix(target)
        if self.folder is None:
            return named_route("auto", weight)
        note = self.folder / f"{spectrum_key(content, 'auto')}.json"
        if note.is_file():
            noted = unless_damaged(lambda: ROUTE.read_as(note, NOTED), f"that of {target.name} is chosen anew")
            if noted is not None:
                return noted["route"]
        route = named_route("auto", weight)
        write_json(note, {"route": route})
        return route

    def _read(self, key: str, target: Target) -> Spectrum | None:
        if self.folder is None or not (path := self.folder / f"{key}.safetensors").is_file():
            return None
        try:
            tensors, metadata = read_tensors(path)
            head = HEAD.parse_as(metadata["spectrum"], NOTED, path)
            sigma, basis = tensors["sigma"], tensors["basis"]
            sizes = (head["format"], tuple(head["shape"]), len(sigma), tuple(basis.shape))
        except (StorageError, KeyError, ValueError, TypeError) as error:
            warnings.warn(f"the cached spectrum of {target.name} is damaged and made anew: {error}", stacklevel=3)
            return None
        k = min(target.shape)
        if sizes != (FORMAT, target.shape, k, (k, k)):
            warnings.warn(f"the cached spectrum of {target.name} does not fit and is made anew: {sizes}", stacklevel=3)
            return None
        rest = {name: head[name] for name in ("side", "route", "orthogonality", "reconstruction")}
        return Spectrum(sigma=sigma, basis=basis, shape=target.shape, **rest)

    def _write(self, key: str, spectrum: Spectrum) -> None:
        if self.folder is None:
            return
        head = {name: getattr(spectrum, name) for name in ("side", "route", "orthogonality", "reconstruction")}
        head |= {"format": FORMAT, "shape": list(spectrum.shape)}
        tensors = {"sigma": spectrum.sigma, "basis": spectrum.basis}
        write_tensors(self.folder / f"{key}.safetensors", tensors, {"spectrum": json.dumps(head)})


def spectrum_key(content: str, route: Choice) -> str:
    """SHA-256 of format, route and the `weight_hash` of the weight as [m, n]."""
    return hashlib.sha256(f"{FORMAT} {route} {content}".encode()).hexdigest()
