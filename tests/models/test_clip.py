from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPTokenizer
from transformers import CLIPModel as Encoder

from ray_st import SentenceTransformer
from ray_st.models import CLIPModel
from ray_st.models.folder_files import ModelFolderError, write_json

TEXTS = ["a cat", "a b c a", "cat"]
SIZE = {"height": 16, "width": 16}
IMAGES = {
    "image_processor_type": "CLIPImageProcessor",
    "do_resize": True,
    "size": {"shortest_edge": 16},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": SIZE,
    "do_rescale": True,
    "do_normalize": True,
    "do_convert_rgb": True,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.3, 0.4],
}


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain folder of a tiny random CLIP."""
    folder = tmp_path_factory.mktemp("clip")
    ends = {"<|startoftext|>": 0, "<|endoftext|>": 1}
    vocabulary = ends | {
        token: 2 + i
        for i, token in enumerate(
            ["a", "b", "c", "t", "a</w>", "b</w>", "c</w>", "cat</w>", "t</w>", "at</w>"]
        )
    }
    CLIPTokenizer(
        vocab=vocabulary, merges=[("a", "t</w>"), ("c", "at</w>")], model_max_length=10
    ).save_pretrained(folder)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {
        **sizes,
        "vocab_size": len(vocabulary),
        "max_position_embeddings": 10,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    image = {**sizes, "image_size": 16, "patch_size": 8}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        Encoder(CLIPConfig(text_config=text, vision_config=image, projection_dim=8)).save_pretrained(folder)
    write_json(folder / "preprocessor_config.json", IMAGES)
    return folder


def pictures() -> list[Any]:
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    return [image.fromarray(rng.integers(0, 255, (20, 30 + i, 3), dtype=np.uint8)) for i in range(2)]


def embed(model: Any, inputs: list[Any]) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(model.tokenize(inputs))["sentence_embedding"]


def test_texts(clip_folder: Path) -> None:
    module = CLIPModel(clip_folder)
    model = SentenceTransformer(modules=[module], device="cpu")
    found = model.encode(TEXTS)
    assert found.shape == (3, 8) == (3, model.get_embedding_dimension())
    assert model.max_seq_length == 10
    for text, row in zip(TEXTS, found, strict=True):
        features = module.tokenizer([text], return_tensors="pt")
        expected = module.model.get_text_features(**features)
        np.testing.assert_allclose(row, expected.pooler_output[0].detach(), atol=1e-5)


def test_texts_and_images_in_their_order(clip_folder: Path) -> None:
    model, images = SentenceTransformer(modules=[CLIPModel(clip_folder)], device="cpu"), pictures()
    together = embed(model, [TEXTS[0], images[0], TEXTS[1], images[1]])
    torch.testing.assert_close(together[[0, 2]], embed(model, TEXTS[:2]))
    torch.testing.assert_close(together[[1, 3]], embed(model, images))


def test_texts_saved_and_read(clip_folder: Path, tmp_path: Path) -> None:
    mine = SentenceTransformer(modules=[CLIPModel(clip_folder)], device="cpu")
    mine.save(tmp_path)
    back = SentenceTransformer(tmp_path, device="cpu")
    np.testing.assert_array_equal(mine.encode(TEXTS), back.encode(TEXTS))
    assert back[0].image_settings == IMAGES


def test_to_the_peer_and_back(clip_folder: Path, peer: Any, tmp_path: Path) -> None:
    images = pictures()
    mine = SentenceTransformer(modules=[CLIPModel(clip_folder)], device="cpu")
    mine.save(tmp_path / "ours")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peer.SentenceTransformer(str(tmp_path / "ours"), device="cpu")
        theirs.save(str(tmp_path / "theirs"))
        expected = [theirs.encode(inputs) for inputs in (TEXTS, images)]
    back = SentenceTransformer(tmp_path / "theirs", device="cpu")
    for model in (mine, back):
        for inputs, theirs_say in zip((TEXTS, images), expected, strict=True):
            np.testing.assert_allclose(embed(model, inputs), theirs_say, atol=1e-5)
            np.testing.assert_allclose(model.encode(inputs), theirs_say, atol=1e-5)
    np.testing.assert_allclose(mine.encode(images[0]), expected[1][0], atol=1e-5)


def test_inputs_that_are_neither(clip_folder: Path) -> None:
    with pytest.raises(ValueError, match="strings or images of pillow; entry 1 is ndarray"):
        SentenceTransformer(modules=[CLIPModel(clip_folder)]).tokenize(["a", np.zeros((2, 2, 3))])
    with pytest.raises(ValueError, match=r"entry 1, .*, character 0 is half of a surrogate pair"):
        SentenceTransformer(modules=[CLIPModel(clip_folder)]).encode(["a", "\ud800"])


def test_images_where_the_folder_knows_none(clip_folder: Path) -> None:
    module, images = CLIPModel(clip_folder), pictures()
    module.image_settings = None
    with pytest.raises(ValueError, match=r"has no preprocessor_config\.json"):
        module.tokenize(images)


def test_another_kind_of_model(tiny_encoder: Path) -> None:
    with pytest.raises(ModelFolderError, match="a model of type 'bert', not 'clip'"):
        CLIPModel(tiny_encoder)
