"""What commands read: models, held-out texts, and the options that say which."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layershap.cli.arguments import UsageError, at_least, path
from layershap.cli.files import read_prompts, read_texts
from layershap.places import is_name, is_path

if TYPE_CHECKING:
    import torch

    from layershap import PruningReport

BUNDLED = "bundled"

PROTOCOLS = ("seq128", "seq128-bos", "seq2048")
"""Names of `layershap.PERPLEXITY_PROTOCOLS`, whose module imports torch."""


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Options of every command that loads a model."""
    group = parser.add_argument_group("how models are loaded")
    group.add_argument(
        "--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto", help="default: the checkpoint's"
    )
    group.add_argument("--device", default="auto", help="a torch device; default: the GPU if there is one")
    group.add_argument(
        "--device-map", metavar="MAP", help="for models larger than one device: 'auto' lets accelerate place the layers"
    )
    group.add_argument(
        "--layers", metavar="PATH", help="dotted path of the layer list, where it is not found by itself"
    )


def add_evaluation_options(parser: argparse.ArgumentParser) -> None:
    """Options of every command that measures models."""
    group = parser.add_argument_group("what is measured")
    group.add_argument("--text", nargs="+", type=path, metavar="FILE", help="held-out text: .txt, .json or .jsonl")
    group.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        default="seq128",
        help="of perplexity; figures under different protocols can't be compared (default: seq128)",
    )
    group.add_argument("--eval-sequences", type=at_least(1), metavar="N", help="sequences of the text (default: all)")
    group.add_argument(
        "--tasks", nargs="+", default=[], metavar="TASK", help="JSONL files of rows, or lm-evaluation-harness tasks"
    )
    group.add_argument(
        "--generation",
        type=path,
        metavar="FILE",
        help=(
            "prompts for greedy answers, compared with the unpruned model's: .txt (a prompt a line), .json or .jsonl "
            "(texts, or objects with 'prompt' or 'messages', and 'answer' where it is known)"
        ),
    )
    group.add_argument(
        "--new-tokens", type=at_least(1), default=64, metavar="N", help="tokens of an answer, at most (default: 64)"
    )
    group.add_argument("--limit", type=at_least(1), metavar="N", help="questions of each task (default: all)")


def evaluation_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What `layershap.evaluate` and `PruningReport.measure` take, from the options of `add_evaluation_options`."""
    check_tasks(arguments.tasks)
    return {
        "texts": read_texts(arguments.text) if arguments.text else None,
        "tasks": arguments.tasks,
        "protocol": arguments.protocol,
        "n_sequences": arguments.eval_sequences,
        "limit": arguments.limit,
        "generation": read_prompts(arguments.generation) if arguments.generation is not None else None,
        "max_new_tokens": arguments.new_tokens,
    }


def check_tasks(tasks: Sequence[str]) -> None:
    """Raise unless all tasks can be found, before any model is loaded for them.

    Raises
    ------
    ValueError
        The harness knows no task of this name; the message holds similar names.
    OSError
        No such file.
    """
    from layershap.scoring.harness import task_manager
    from layershap.tasks import read_rows

    for task in tasks:
        if Path(task).suffix == ".jsonl":
            read_rows(Path(task))
    names = [task for task in tasks if Path(task).suffix != ".jsonl"]
    if names:
        task_manager(names)


def check_device(arguments: argparse.Namespace) -> None:
    """Raise unless models can be put on the device asked for.

    Raises
    ------
    UsageError
        There is no such kind of device, or a device map is asked for besides.
    ValueError
        Not on this machine, or not with this build of torch.
    """
    if arguments.device == "auto":
        return
    if arguments.device_map is not None:
        raise UsageError("give either --device, for the whole model, or --device-map")
    check_device_name(arguments.device)


def check_device_name(name: str) -> None:
    """Raise unless models can be put on a device, as `check_device` does."""
    import torch

    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"--device must be a torch device such as cpu, cuda or cuda:1, got {name!r}") from error
    if device.type == "meta":
        raise UsageError("--device must be a device that holds weights, got 'meta'")
    try:
        torch.zeros(1, device=device)
    # What torch raises depends on the device: no build for it, no driver, no such number, no plug-in.
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"--device {name} can't be used by torch {torch.__version__} here: {reason}") from error


def check_model(source: str, arguments: argparse.Namespace) -> None:
    """Raise if there is no such model, or if it can't be put where it is to go; its weights are not read.

    Raises
    ------
    OSError, ValueError
        As `load_model`.
    """
    from transformers import AutoConfig

    from layershap.checkpoint import RECIPE_FILE

    check_device(arguments)
    _check_folder_of_a_model(source)
    rebuilt = (Path(source) / RECIPE_FILE).is_file()
    if arguments.device_map is not None and (source == BUNDLED or rebuilt):
        raise ValueError(f"--device-map must be left out for {source}: its model is built on one device")
    if source != BUNDLED and not rebuilt:
        AutoConfig.from_pretrained(source)


def _check_folder_of_a_model(source: str) -> None:
    """Raise if `source` can only be a path and no folder is there; the Hub would be asked for it, again and again."""
    if source == BUNDLED or Path(source).is_dir() or not is_path(source):
        return
    found = "it is a file: give the folder it is in" if Path(source).exists() else "there is no such folder"
    if is_name(source) and not Path(source).exists():
        found += f" in {source.partition('/')[0]} (for a model of this owner on the Hub, run this elsewhere)"
    raise FileNotFoundError(f"{source} must be a folder with a checkpoint, a name on the Hub or {BUNDLED!r}; {found}")


def load_model(source: str, arguments: argparse.Namespace) -> tuple[Any, Any]:
    """A causal language model, in evaluation mode, and tokenizer.

    Parameters
    ----------
    source : str
        Folder, name on the Hub, or 'bundled'.
    arguments : Namespace
        With the options of `add_model_options`.

    Raises
    ------
    OSError
        There is no such model.
    ValueError
        Its weights can't be read, or it can't be put where it is to go.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from layershap.checkpoint import RECIPE_FILE, load_pruned
    from layershap.datasets import load_tiny_gpt2

    check_model(source, arguments)
    dtype: torch.dtype | None = None if arguments.dtype == "auto" else getattr(torch, arguments.dtype)
    model: Any
    if source == BUNDLED:
        model, tokenizer = load_tiny_gpt2(dtype=dtype or torch.float32)
    else:
        tokenizer = AutoTokenizer.from_pretrained(source)
        try:
            if (Path(source) / RECIPE_FILE).is_file():
                model = load_pruned(source, dtype=dtype)
            else:
                model = AutoModelForCausalLM.from_pretrained(
                    source, dtype=dtype or "auto", device_map=arguments.device_map
                )
        except SafetensorError as error:
            raise ValueError(f"the weights of {source} can't be read, damaged or not complete: {error}") from error
    if getattr(model, "hf_device_map", None) is None:
        automatic = "cuda" if torch.cuda.is_available() else "cpu"
        model.to(automatic if arguments.device == "auto" else arguments.device)
    return model.eval(), tokenizer


def skeleton(source: str) -> Any | None:
    """The model without its weights, on the meta device, by its config; None where a model isn't built by a config.

    What its config says is known in a second, and weights may take minutes.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from layershap.checkpoint import RECIPE_FILE

    if source == BUNDLED or (Path(source) / RECIPE_FILE).is_file():
        return None
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(source)).eval()


def has_weights_of(model: Any, report: PruningReport) -> bool:
    """Whether the model's weights are those that the report's fit had."""
    from layershap.fingerprint import weights_digest

    return weights_digest(model) == report.fit.weights_digest
