"""Load and save models: which format a source is, its configuration, and its parameters.

    ours            a folder: config.json {"format": "perceivio", ...} and model.safetensors
    Hugging Face    a folder or hub id: config.json and model.safetensors or pytorch_model.bin
    DeepMind        a pickle, found by its content

A source is first read as a `Stored`: names, shapes, and a way to read a value. The model that its
configuration declares is built without memory, compared with those shapes, and filled only when
every parameter fits. Names are translated by the tables of names.py.
"""

from __future__ import annotations

import difflib
import json
import re
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import Parameter

from . import names, pickles, published
from .config import PRESETS, Config
from .errors import PerceivioError
from .model import MultimodalAutoencoder
from .names import Row

HUB_MODEL = "deepmind/multimodal-perceiver"
SHIPPED = {"small": "weights_small"}  # name -> folder in this package
FORMAT, VERSION = "perceivio", 1
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"  # of weights in several files
TORCH = "pytorch_model.bin"
MOST_JSON = 2**24  # bytes of a configuration, or of an index of files


class WeightsError(PerceivioError):
    """Weights that cannot be found, read, fitted to their configuration, or written."""


def load_module(source: str | Path, revision: str | None = None) -> MultimodalAutoencoder:
    """The model of a source, in float32 on the CPU, ready to compute (eval mode).

    source    name of shipped weights, folder (ours or Hugging Face's), DeepMind pickle, or hub id
    revision  branch, tag or commit, for a hub id

    Raises a PerceivioError (one line): WeightsError where there is no such source or it cannot be
    read, PickleError for a pickle with anything but arrays inside, ParameterError naming the
    parameters that are missing, unknown, or of another shape than configured.
    """
    path = locate(source, revision)
    try:
        return _build(path, *(_read_folder(path) if path.is_dir() else _read_file(path)))
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror or error}") from error


def save_module(
    module: MultimodalAutoencoder,
    folder: str | Path,
    dtype: torch.dtype | None = None,
    overwrite: bool = False,
) -> Path:
    """Write our folder: config.json and model.safetensors, in `dtype` or as the module has them.

    It is written beside and renamed when whole. Raises WeightsError where the folder has files
    and `overwrite` is not given, or where it cannot be written.
    """
    tensors = {k: p.detach().to("cpu", dtype) for k, p in module.named_parameters()}
    plain = {"format": FORMAT, "version": VERSION, "config": module.config.to_dict()}
    return _write_folder(folder, plain, tensors, overwrite)


def save_huggingface(
    module: MultimodalAutoencoder, folder: str | Path, overwrite: bool = False
) -> Path:
    """Write a folder that transformers' PerceiverForMultimodalAutoencoding loads, in float32.

    Raises ConfigError saying why where Hugging Face's code cannot express this model; otherwise
    as `save_module` does. Their configuration has no place for the media's rates: the folder
    reads back as 25 frames a second.
    """
    plain = published.config_to_huggingface(module.config)
    ours = {k: p.detach().to("cpu", torch.float32) for k, p in module.named_parameters()}
    tensors = names.to_theirs(names.huggingface(module.config.self_attends), ours)
    return _write_folder(folder, plain, tensors, overwrite)


def convert(
    source: str | Path,
    target: str | Path,
    to: Literal["perceivio", "huggingface"] | None = None,
    overwrite: bool = False,
) -> Path:
    """Load any source and write it as our folder, or as Hugging Face's. Returns the folder.

    source  anything that `load` takes
    to      "perceivio" (None: the same) or "huggingface"

    Raises WeightsError, in one line, for what cannot be loaded, for what Hugging Face's model
    cannot be, and for a folder that is there unless `overwrite`.
    """
    if to not in (None, "perceivio", "huggingface"):
        raise WeightsError(f"cannot convert to {to!r}, only to 'perceivio' or 'huggingface'")
    _check_target(Path(target), overwrite)  # before the work of loading
    save = save_huggingface if to == "huggingface" else save_module
    return save(load_module(source), target, overwrite=overwrite)


# ---- where a source is -------------------------------------------------------------------------


def locate(source: str | Path, revision: str | None = None) -> Path:
    """The folder or file of a source; a hub id is downloaded into the hub's cache.

    Names of ours come first ("./small" is a folder of that name), then what exists on disk, then
    hub ids. Raises WeightsError.
    """
    text = str(source)
    path = Path(text).expanduser()
    if text in SHIPPED and isinstance(source, str):
        return _shipped(text)
    if text in PRESETS and isinstance(source, str):
        published = "the published weights are 88x: " if text == "base" else "none were published: "
        raise WeightsError(
            f"{text} has no shipped weights; {published}load {HUB_MODEL!r} (Hugging Face hub), "
            "a folder or a file"
        )
    if path.exists():
        return path
    if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", text) and not _looks_like_file(path):
        return _download(text, revision)
    if isinstance(source, Path) or len(path.parts) > 1 or _looks_like_file(path):
        raise WeightsError(f"no such file or folder: {text}")
    known = [*SHIPPED, *(n for n in PRESETS if n not in SHIPPED), HUB_MODEL]
    near = difflib.get_close_matches(text, [*known, HUB_MODEL.split("/")[1]], 3, 0.5)
    near = [HUB_MODEL if n in HUB_MODEL else n for n in near]
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
    raise WeightsError(f"no model, file or folder is called {text!r}; {hint}")


def _looks_like_file(path: Path) -> bool:
    endings = (".pkl", ".pickle", ".bin", ".pt", ".pth", ".safetensors", ".npy", ".npz", ".json")
    return path.suffix.lower() in endings


def _shipped(name: str) -> Path:
    folder = Path(str(resources.files("perceivio"))) / SHIPPED[name]
    if not (folder / WEIGHTS).is_file():
        raise WeightsError(f"the weights of {name} are not in this installation of perceivio")
    return folder


def _download(repository: str, revision: str | None) -> Path:
    """A hub id -> the folder in the hub's cache that holds its configuration and weights."""
    with warnings.catch_warnings():
        # In a notebook without widgets its bar is told to be plain text, which does as well.
        warnings.filterwarnings("ignore", "IProgress not found")
        from huggingface_hub import snapshot_download

    def fetch(*patterns: str) -> Path:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(patterns)))

    try:
        folder = fetch(CONFIG, INDEX, "model*.safetensors")
        if not any((folder / name).exists() for name in (WEIGHTS, INDEX)):
            folder = fetch(CONFIG, TORCH)  # only where there is nothing better
        return folder
    except Exception as error:  # the hub's own, its HTTP client's, the disk's: told alike
        problem = _hub_problem(error, repository, revision)
        raise WeightsError(problem) from error


def _hub_problem(error: Exception, repository: str, revision: str | None) -> str:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return f"{repository} asks for access: log in with `hf auth login`"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"no folder, file or hub model is called {repository!r}"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repository} has no revision {revision!r} on the hub"
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        return (
            f"{repository} is no folder here and not in the hub's cache, and the hub cannot be "
            f"reached: go online once, or give a folder with its {CONFIG} and weights"
        )
    if isinstance(error, errors.HFValidationError):
        return f"{repository!r} is neither a folder or file nor a hub id"
    return f"cannot download {repository}: {_one_line(error)}"


# ---- what a source holds -----------------------------------------------------------------------


@dataclass(frozen=True)
class Stored:
    """Parameters on disk: their shapes, known without reading them, and how to read one."""

    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], Tensor]


def _read_folder(folder: Path) -> tuple[Config, list[Row] | None, Stored]:
    path = folder / CONFIG
    if not path.is_file():
        raise WeightsError(f"{folder} is no model: it has no {CONFIG}")
    plain = _read_json(path)
    ours = plain.get("format") == FORMAT
    if not ours and plain.get("model_type") != "perceiver":
        raise WeightsError(
            f"{path} is neither perceivio's nor of Hugging Face's model_type 'perceiver'"
        )
    if ours and plain.get("version") != VERSION:
        raise WeightsError(
            f"{path} is of version {plain.get('version')!r}, this perceivio reads {VERSION}"
        )
    with _told(path):
        config = (
            Config.from_dict(plain.get("config", {}))
            if ours
            else published.config_from_huggingface(plain)
        )
    stored = _read_weights(folder)
    if config.self_attends > len(stored.shapes):
        # Layers cost time and memory even where a model is built without its parameters.
        raise WeightsError(
            f"{path} declares {config.self_attends} self-attends, "
            f"but there are {len(stored.shapes)} parameters"
        )
    return config, None if ours else names.huggingface(config.self_attends), stored


def _read_file(path: Path) -> tuple[Config, list[Row] | None, Stored]:
    if path.name in (CONFIG, WEIGHTS, INDEX, TORCH) or path.suffix == ".safetensors":
        raise WeightsError(
            f"give the folder that holds {path.name} with its {CONFIG}: {path.parent}"
        )
    if not path.is_file() or not pickles.is_pickle(path):
        raise WeightsError(f"{path} is neither a model folder nor a DeepMind pickle")
    arrays = pickles.read_arrays(path)
    stored = Stored(
        {name: array.shape for name, array in arrays.items()},
        # The file's bytes are read-only and may be of the other byte order: copy both away.
        lambda name: torch.from_numpy(arrays[name].astype(arrays[name].dtype.newbyteorder("="))),
    )
    with _told(path):
        config = published.config_from_deepmind(stored.shapes)
    return config, names.deepmind(config.self_attends), stored


def _read_weights(folder: Path) -> Stored:
    """safetensors in one file or several, else PyTorch's own file read without running code."""
    if (folder / WEIGHTS).is_file():
        return _read_safetensors([folder / WEIGHTS])
    if (folder / INDEX).is_file():
        listed = _read_json(folder / INDEX).get("weight_map")
        shards = {str(name) for name in listed.values()} if isinstance(listed, dict) else set()
        if not shards or any(Path(name).name != name for name in shards):
            raise WeightsError(f"{folder / INDEX} names no files of its folder")
        return _read_safetensors([folder / name for name in sorted(shards)])
    if (folder / TORCH).is_file():
        return _read_torch(folder / TORCH)
    raise WeightsError(f"{folder} has a {CONFIG} but neither {WEIGHTS} nor {TORCH}")


def _read_safetensors(paths: list[Path]) -> Stored:
    shapes, holders = {}, {}
    for path in paths:
        if not path.is_file():
            raise WeightsError(f"no such file or folder: {path}")
        try:
            file = safe_open(path, framework="pt")
            for name in file.keys():  # noqa: SIM118, it is no mapping
                shapes[name] = tuple(file.get_slice(name).get_shape())
                holders[name] = file
        except SafetensorError as error:
            raise WeightsError(f"{path} is truncated or damaged: {_one_line(error)}") from error
    return Stored(shapes, lambda name: holders[name].get_tensor(name))


def _read_torch(path: Path) -> Stored:
    try:
        # Mapped, so that nothing is read before shapes are known to fit; the old format cannot be.
        mapped = zipfile.is_zipfile(path)
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # torch raises many kinds for a damaged or refused file
        problem = _one_line(error).split(". ")[0]
        raise WeightsError(f"{path} is damaged or more than weights: {problem}") from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsError(f"{path} holds something other than named tensors")
    if any(type(v) not in (Tensor, Parameter) or not _is_plain(v) for v in state.values()):
        raise WeightsError(f"{path} holds tensors that are not plain arrays of numbers")
    if sum(v.numel() * v.element_size() for v in state.values()) > path.stat().st_size:
        # One number can stand for a tensor of any size, and one tensor for many.
        raise WeightsError(f"{path} declares more numbers than it has bytes for")
    return Stored({name: tuple(v.shape) for name, v in state.items()}, state.__getitem__)


def _is_plain(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and tensor.device.type == "cpu"


def _read_json(path: Path) -> dict[str, Any]:
    if path.stat().st_size > MOST_JSON:
        raise WeightsError(f"{path} is larger than {MOST_JSON} bytes: no configuration is")
    try:
        plain = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is not JSON: {_one_line(error)}") from error
    if not isinstance(plain, dict):
        raise WeightsError(f"{path} is not a configuration")
    return plain


# ---- a model from what is stored ---------------------------------------------------------------


def _build(
    path: Path, config: Config, rows: list[Row] | None, stored: Stored
) -> MultimodalAutoencoder:
    """The configured model with the stored parameters. rows None: they have our own names."""
    with _told(path), torch.device("meta"):
        module = MultimodalAutoencoder(config)
    ours = dict(module.named_parameters())
    if rows is None:
        rows = [Row(name, name, "same") for name in ours]
    wanted = {row.theirs: tuple(row.to_theirs(ours[row.ours]).shape) for row in rows}
    names.check_parameters(wanted, stored.shapes, str(path))
    values = {name: torch.empty(p.shape) for name, p in ours.items() if not p.numel()}
    for row in rows:
        value = stored.read(row.theirs)
        if not value.is_floating_point():
            raise WeightsError(f"{path}: {row.theirs} is of {value.dtype}, not floating point")
        # A copy of our own: what was read may be a view of the file.
        value = row.to_ours(value).to(torch.float32, copy=True).contiguous()
        if not value.isfinite().all():
            raise WeightsError(f"{path}: {row.theirs} holds values that are not finite")
        values[row.ours] = value
    module.load_state_dict(values, assign=True)
    return module.eval()


@contextmanager
def _told(path: Path) -> Generator[None]:
    """Whatever a nonsensical configuration breaks, said in one line with the file's name."""
    try:
        yield
    except PerceivioError as error:
        raise WeightsError(f"{path}: {error}") from error
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as e:
        raise WeightsError(f"{path}: no model has this configuration: {_one_line(e)}") from e


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


# ---- writing -----------------------------------------------------------------------------------


def _write_folder(
    folder: str | Path, plain: Mapping[str, Any], tensors: dict[str, Tensor], overwrite: bool
) -> Path:
    folder = Path(folder)
    _check_target(folder, overwrite)
    beside = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(
            tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".part")
        )
        beside.chmod(0o755)
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(tensors, beside / WEIGHTS, metadata={"format": "pt"})
        (beside / WEIGHTS).chmod(0o644)  # safetensors lets nobody else read it
        (beside / CONFIG).write_text(json.dumps(plain, indent=2) + "\n", "utf-8")
        if folder.is_dir():
            for name in (WEIGHTS, CONFIG):  # what else is in the folder is not ours to remove
                (beside / name).replace(folder / name)
        else:
            beside.rename(folder)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or _one_line(error)
        raise WeightsError(f"cannot write {folder}: {reason}") from error
    finally:
        if beside is not None:
            shutil.rmtree(beside, ignore_errors=True)
    return folder


def _check_target(folder: Path, overwrite: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise WeightsError(f"{folder} is a file, and a model is written as a folder")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise WeightsError(
            f"{folder} has files already; add --overwrite (in Python overwrite=True) "
            "or choose another folder"
        )
