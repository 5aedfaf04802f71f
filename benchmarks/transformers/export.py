"""Export decoders, encoder-decoders, encoders, diffusion models and detectors with random weights; see README.md.

    python export.py OUT [NAME ...] [--large]

Runs in an environment of its own, with requirements.txt. Writes OUT/NAME/ for each, skips what is there, and says what
an exporter refused. `--large` adds a decoder of 1.3 GB.
"""

# ruff: noqa: E402 - torchvision must not be asked for its operators before the imports below

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

sys.path.insert(0, str(Path(__file__).absolute().parents[1] / "architectures"))
from networks import allow_missing_torchvision_operators

allow_missing_torchvision_operators()

import diffusers
import torch
import transformers
from optimum.exporters.onnx import onnx_export_from_model
from torch import nn

SMALL: dict[str, Any] = {
    "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 3, "num_attention_heads": 8, "vocab_size": 8192,
}  # fmt: skip
GROUPED = SMALL | {"num_key_value_heads": 2}
LARGE = GROUPED | {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 5, "num_attention_heads": 16,
                   "num_key_value_heads": 4, "vocab_size": 32000}  # fmt: skip
SEQUENCES: dict[str, Any] = {"d_model": 192, "vocab_size": 4096, "encoder_layers": 2, "decoder_layers": 2,
                             "encoder_attention_heads": 6, "decoder_attention_heads": 6, "encoder_ffn_dim": 512,
                             "decoder_ffn_dim": 512}  # fmt: skip

DECODER, PAIR, FEATURES = "text-generation-with-past", "text2text-generation-with-past", "feature-extraction"

OPTIMUM: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gpt2": ("GPT2LMHeadModel", DECODER, {"n_embd": 256, "n_layer": 3, "n_head": 8, "vocab_size": 8192}),
    "gpt_neox": ("GPTNeoXForCausalLM", DECODER, SMALL),
    "opt": (
        "OPTForCausalLM",
        DECODER,
        {
            "hidden_size": 256,
            "word_embed_proj_dim": 256,
            "ffn_dim": 768,
            "num_hidden_layers": 3,
            "num_attention_heads": 8,
            "vocab_size": 8192,
        },
    ),
    "bloom": ("BloomForCausalLM", DECODER, {"hidden_size": 256, "n_layer": 3, "n_head": 8, "vocab_size": 8192}),
    "falcon": ("FalconForCausalLM", DECODER, SMALL | {"new_decoder_architecture": False}),
    "llama": ("LlamaForCausalLM", DECODER, GROUPED),
    "mistral": ("MistralForCausalLM", DECODER, GROUPED),
    "qwen2": ("Qwen2ForCausalLM", DECODER, GROUPED | {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3ForCausalLM", DECODER, GROUPED | {"head_dim": 32}),
    "gemma": ("GemmaForCausalLM", DECODER, GROUPED | {"head_dim": 32}),
    "phi": ("PhiForCausalLM", DECODER, SMALL),
    "phi3": ("Phi3ForCausalLM", DECODER, GROUPED | {"pad_token_id": 0}),
    "t5": (
        "T5ForConditionalGeneration",
        PAIR,
        {
            "d_model": 192,
            "d_ff": 512,
            "num_layers": 2,
            "num_heads": 6,
            "d_kv": 32,
            "vocab_size": 4096,
            "decoder_start_token_id": 0,
        },
    ),
    "bart": ("BartForConditionalGeneration", PAIR, SEQUENCES),
    "marian": ("MarianMTModel", PAIR, SEQUENCES | {"pad_token_id": 0, "decoder_start_token_id": 0}),
    "whisper": (
        "WhisperForConditionalGeneration",
        "automatic-speech-recognition-with-past",
        {k: v for k, v in SEQUENCES.items() if k != "vocab_size"} | {"pad_token_id": 0, "decoder_start_token_id": 1},
    ),
    "bert": ("BertModel", FEATURES, SMALL),
    "roberta": ("RobertaModel", FEATURES, SMALL),
    "deberta_v2": ("DebertaV2Model", FEATURES, SMALL | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}),
    "mpnet": ("MPNetModel", FEATURES, SMALL),
    "vit": ("ViTForImageClassification", "image-classification", SMALL),
    "swin": (
        "SwinForImageClassification",
        "image-classification",
        {"embed_dim": 48, "depths": [2, 2], "num_heads": [3, 6]},
    ),
    "segformer": ("SegformerForSemanticSegmentation", "semantic-segmentation", {}),
    "detr": (
        "DetrForObjectDetection",
        "object-detection",
        {"use_pretrained_backbone": False, "encoder_layers": 2, "decoder_layers": 2, "backbone": "resnet18"},
    ),
    "clip": ("CLIPModel", "zero-shot-image-classification", {}),
    "wav2vec2": ("Wav2Vec2ForCTC", "automatic-speech-recognition", SMALL | {"vocab_size": 64}),
}
"""Name → class of transformers, optimum's task, its configuration."""


def by_optimum(name: str, folder: Path) -> None:
    """Export as `optimum-cli export onnx` does: one file, or several beside each other."""
    kind, task, given = ("LlamaForCausalLM", DECODER, LARGE) if name == "llama_large" else OPTIMUM[name]
    made: Any = getattr(transformers, kind)
    config = made.config_class(**given)
    if name == "clip":
        config.text_config.num_hidden_layers = config.vision_config.num_hidden_layers = 2
    onnx_export_from_model(made(config).eval(), folder, task=task, do_validation=False)


def by_builder(name: str, folder: Path) -> None:
    """Export as `python -m onnxruntime_genai.models.builder` does: float32, float16, or 4 bits."""
    _, kind, precision = name.split("_")
    made: Any = getattr(
        transformers, {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "phi3": "Phi3ForCausalLM"}[kind]
    )
    source = folder / "source"
    more = {"pad_token_id": 0} if kind == "phi3" else {}
    made(made.config_class(**GROUPED, **more)).save_pretrained(source)
    words = {f"t{n}": n for n in range(SMALL["vocab_size"])}
    from tokenizers import Tokenizer, models

    tokenizer = Tokenizer(models.WordLevel(words, unk_token="t0"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="t0").save_pretrained(source)
    command = [sys.executable, "-c", BUILDER, "-m", str(source), "-o", str(folder), "-p", precision, "-e", "cpu"]
    here = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([*command, "-c", str(folder / "cache")], check=True, capture_output=True, text=True, env=here)
    shutil.rmtree(source)
    shutil.rmtree(folder / "cache", ignore_errors=True)


BUILDER = """
import runpy
from networks import allow_missing_torchvision_operators
allow_missing_torchvision_operators()
runpy.run_module("onnxruntime_genai.models.builder", run_name="__main__")
"""


class Only(nn.Module):
    """A module that gives a tensor in place of an object of diffusers."""

    def __init__(self, inner: nn.Module, call: Callable[..., Any]) -> None:
        super().__init__()
        self.inner, self.call = inner, call

    def forward(self, *given: torch.Tensor) -> torch.Tensor:
        """Return the first tensor."""
        result = self.call(self.inner, *given)
        return result if isinstance(result, torch.Tensor) else result[0]


def unet() -> tuple[nn.Module, tuple[torch.Tensor, ...], list[str]]:
    made = diffusers.UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64),
        layers_per_block=1,
        cross_attention_dim=32,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )
    inputs = torch.randn(1, 4, 16, 16), torch.tensor([1]), torch.randn(1, 7, 32)
    return Only(made, lambda m, *x: m(*x, return_dict=False)), inputs, ["sample", "timestep", "text"]


def vae_decoder() -> tuple[nn.Module, tuple[torch.Tensor, ...], list[str]]:
    made = diffusers.AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=8,
        latent_channels=4,
    )
    return Only(made, lambda m, z: m.decode(z, return_dict=False)), (torch.randn(1, 4, 16, 16),), ["latent"]


def dit() -> tuple[nn.Module, tuple[torch.Tensor, ...], list[str]]:
    made = diffusers.DiTTransformer2DModel(
        num_attention_heads=4, attention_head_dim=16, num_layers=2, sample_size=16, in_channels=4, norm_num_groups=8
    )
    inputs = torch.randn(1, 4, 16, 16), torch.tensor([1]), torch.tensor([3])
    return Only(made, lambda m, *x: m(*x, return_dict=False)), inputs, ["sample", "timestep", "label"]


TORCH: dict[str, Callable[[], tuple[nn.Module, tuple[torch.Tensor, ...], list[str]]]] = {
    "unet": unet,
    "vae_decoder": vae_decoder,
    "dit": dit,
}


def by_torch(name: str, folder: Path) -> None:
    """Export with torch.onnx, by tracing and, where the name says so, by dynamo."""
    kind, _, exporter = name.partition("-")
    module, inputs, names = TORCH[kind]()
    target = str(folder / "model.onnx")
    if exporter == "dynamo":
        torch.onnx.export(module.eval(), inputs, dynamo=True, verbose=False).save(target)
    else:
        torch.onnx.export(module.eval(), inputs, target, dynamo=False, opset_version=17, input_names=names)


BUILT = [f"genai_{kind}_{precision}" for kind in ("llama", "qwen2", "phi3") for precision in ("fp32", "int4")]
TRACED = [*TORCH, "unet-dynamo", "vae_decoder-dynamo", "dit-dynamo"]
SOURCES: dict[str, Callable[[str, Path], None]] = {
    **dict.fromkeys([*OPTIMUM, "llama_large"], by_optimum),
    **dict.fromkeys(BUILT, by_builder),
    **dict.fromkeys(TRACED, by_torch),
}


def main() -> int:
    """Export what is asked for; a folder appears only when it is whole."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--large", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    names = options.names or [name for name in SOURCES if options.large or name != "llama_large"]
    for name in names:
        folder, started = options.out / name, time.perf_counter()
        if folder.exists():
            continue
        temporary = options.out / f".{name}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        torch.manual_seed(0)
        said = "exported"
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                SOURCES[name](name, temporary)
            temporary.rename(folder)
        except Exception as error:  # noqa: BLE001 - an exporter raises anything, and the others go on
            (options.out / f"{name}.log").write_text(
                traceback.format_exc() + getattr(error, "stderr", ""), encoding="utf-8"
            )
            lines = str(error).strip().splitlines() or [type(error).__name__]
            said = f"{type(error).__name__}: {lines[0][:160]}"
            shutil.rmtree(temporary, ignore_errors=True)
        print(f"{name:24s} {time.perf_counter() - started:6.1f} s  {said}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
