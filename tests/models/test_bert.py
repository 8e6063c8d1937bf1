"""Latent diffusion's text transformer, compared with diffusers' LDMBertModel; and its class embedder."""

import pytest
import torch
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel
from references import randomise, relative_error

from maquette.errors import MaquetteError
from maquette.models import class_embedder
from maquette.models.bert import Bert, BertSpec
from maquette.models.bert_config import from_config, to_config
from maquette.models.bert_names import DIALECTS, DIFFUSERS
from maquette.models.class_embedder import ClassEmbedder, ClassEmbedderSpec
from maquette.weights.view import InMemory

SMALL = BertSpec(vocabulary=50, positions=12, width=96, layers=2, heads=1, hidden=64)


def reference(network: Bert) -> LDMBertModel:
    model = LDMBertModel(LDMBertConfig(**to_config(network.spec))).eval()
    state = dict(DIFFUSERS.write(network.state_dict(), network))
    logits = {name: each for name, each in model.state_dict().items() if name.startswith("to_logits")}
    model.load_state_dict(state | logits, assign=True)
    return model


@torch.no_grad()
def test_diffusers_gives_the_same() -> None:
    network = randomise(Bert(SMALL))
    ids = torch.randint(50, (2, 12), generator=torch.Generator().manual_seed(1))
    theirs = reference(network)(ids, return_dict=False, output_attentions=False, output_hidden_states=False)[0]
    assert relative_error(network(ids), theirs) <= 1e-5


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_names_go_there_and_back(dialect) -> None:
    network = randomise(Bert(SMALL))
    theirs = InMemory({**dialect.write(network.state_dict(), network), "to_logits.bias": torch.zeros(50)})
    assert dialect.spec(theirs) == SMALL
    back = dialect.read(theirs, network)
    for key, tensor in network.state_dict().items():
        assert torch.equal(tensor, back[key]), key


def test_published_shape() -> None:
    with torch.device("meta"):
        network = Bert(BertSpec())
    assert sum(each.numel() for each in network.parameters()) == 542_895_360  # without logits
    assert from_config(to_config(BertSpec())) == BertSpec() == from_config({})
    with pytest.raises(MaquetteError, match="activation_function"):
        from_config({"activation_function": "relu"})


def test_classes() -> None:
    network = randomise(ClassEmbedder(ClassEmbedderSpec(rows=11, width=4)))
    table = network.embedding.weight
    assert torch.equal(network([3, None])[:, 0], table[[3, 10]])
    with pytest.raises(MaquetteError, match="class 10; the model knows 0 to 9"):
        network([10])
    first = randomise(ClassEmbedder(ClassEmbedderSpec(rows=1000, width=4)))
    assert torch.equal(first([999])[0, 0], first.embedding.weight[999])
    assert not first([None]).any()
    theirs = class_embedder.ORIGINAL.write(network.state_dict(), network)
    assert class_embedder.ORIGINAL.spec(theirs) == network.spec
