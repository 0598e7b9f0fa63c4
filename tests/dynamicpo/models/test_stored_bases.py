"""Base models in object stores: of their files only those are fetched that are read."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dynamicpo.core import storage
from dynamicpo.core.errors import ConfigError, DataError
from dynamicpo.models.backbones import BaseModelSpec, Permissions
from dynamicpo.models.base_models import load_base_model, load_tokenizer
from tests.fixtures.fault_proxy import FaultProxy
from tests.fixtures.models import write_tiny_llm
from tests.fixtures.object_stores import environment

# In place of weights for other libraries.
OTHERS = ("pytorch_model.bin", "original/consolidated.00.pth", "flax_model.msgpack")
NUM_OTHER_BYTES = 1 << 20
ALLOWED = Permissions(fetch_base=True)


@pytest.fixture
def proxy(s3_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FaultProxy]:
    """A store with a base at `root`."""
    base = write_tiny_llm(tmp_path / "base")
    for name in OTHERS:
        path = base / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(NUM_OTHER_BYTES))
    with FaultProxy(s3_url) as proxy:
        for name, value in environment("s3", proxy.url).items():
            monkeypatch.setenv(name, value)
        proxy.root = f"s3://bucket/{tmp_path.name}/base"
        storage.put(base, proxy.root)
        yield proxy


def test_weights_of_other_libraries_are_left_in_the_store(
    proxy: FaultProxy, tmp_path: Path
) -> None:
    here, _ = load_base_model(BaseModelSpec(str(tmp_path / "base")))
    there, tokenizer = load_base_model(BaseModelSpec(proxy.root), ALLOWED)
    assert proxy.content_bytes < NUM_OTHER_BYTES
    assert tokenizer("Solaris").input_ids
    expected = here.state_dict()
    assert all(tensor.equal(expected[name]) for name, tensor in there.state_dict().items())


def test_tokenizer_is_fetched_without_weights(proxy: FaultProxy, tmp_path: Path) -> None:
    here = load_tokenizer(str(tmp_path / "base"), "main")
    there = load_tokenizer(proxy.root, "main")
    assert there("Solaris").input_ids == here("Solaris").input_ids
    num_bytes = (tmp_path / "base" / "model.safetensors").stat().st_size
    assert 0 < proxy.content_bytes < num_bytes / 2


def test_base_that_can_not_be_loaded_is_named_by_its_uri(proxy: FaultProxy, tmp_path: Path) -> None:
    (tmp_path / "cut").write_bytes(b"x" * 100)
    storage.put(tmp_path / "cut", f"{proxy.root}/model.safetensors")
    with pytest.raises((ConfigError, DataError), match=proxy.root) as raised:
        load_base_model(BaseModelSpec(proxy.root), ALLOWED)
    assert "/tmp" not in str(raised.value)
    storage.delete(f"{proxy.root}/model.safetensors")
    with pytest.raises((ConfigError, DataError), match=f"{proxy.root}.*pytorch_model.bin"):
        load_base_model(BaseModelSpec(proxy.root), ALLOWED)
