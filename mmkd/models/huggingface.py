"""Video models of transformers (the extra `hf`) from a local folder: VideoMAE, TimeSformer, V-JEPA 2."""

import inspect
import json
from pathlib import Path
from typing import Any

from torch import Tensor, nn

CODE = ("auto_map", "attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation")
"""What of a model's settings names code elsewhere; which code is run is not for a file to say."""


class TokenEncoder(nn.Module):
    """Backbone: a transformers video model, the mean of its last tokens.

    Float [batch, channels, frames, height, width] to features [batch, num_features].

    Args:
        config: what the folder's config.json says; code that it names is not run.
    """

    channels_last = True

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        transformers = _transformers()
        plain = {key: value for key, value in without_code(config).items() if key != "model_type"}
        self.network = transformers.AutoModel.from_config(
            transformers.AutoConfig.for_model(config["model_type"], **plain)
        )
        self.num_features = int(self.network.config.hidden_size)
        self.skip = "skip_predictor" in inspect.signature(self.network.forward).parameters

    def forward(self, x: Tensor) -> Tensor:
        inputs = {self.network.main_input_name: x.transpose(1, 2)}
        output = self.network(**inputs, **({"skip_predictor": True} if self.skip else {}))
        return output.last_hidden_state.mean(dim=1)


def read_folder(folder: str) -> tuple[dict[str, Any], tuple[list[float], list[float]] | None]:
    """A folder's model settings, and its normalisation if it says one.

    Raises:
        ValueError: it is no such folder.
    """
    path = Path(folder)
    if not (path / "config.json").is_file():
        raise ValueError(f"{folder} is no Hugging Face model folder: it has no config.json.")
    config = json.loads((path / "config.json").read_text())
    if "model_type" not in config:
        raise ValueError(f"{path / 'config.json'} does not say its model_type.")
    config = {
        key: value for key, value in config.items() if key not in ("architectures", "transformers_version", "dtype")
    }
    for name in ("preprocessor_config.json", "video_preprocessor_config.json"):
        if (path / name).is_file():
            said = json.loads((path / name).read_text())
            if "image_mean" in said:
                return config, (said["image_mean"], said["image_std"])
    return config, None


def load_folder(backbone: TokenEncoder, folder: str) -> None:
    """Read the folder's weights (safetensors only) into a backbone that was made from its settings."""
    network = _transformers().AutoModel.from_pretrained(
        folder,
        config=backbone.network.config,  # else that of the folder, with the code that it names
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
    )
    backbone.network.load_state_dict(network.state_dict())


def without_code(config: Any) -> Any:
    """A model's settings, and those of its parts, without what names code."""
    if isinstance(config, list):
        return [without_code(each) for each in config]
    if not isinstance(config, dict):
        return config
    return {key: without_code(value) for key, value in config.items() if key not in CODE}


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise ValueError("hf/ models need the transformers library: pip install 'mmkd[hf]'.") from None
    return transformers
