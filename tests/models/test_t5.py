from dataclasses import replace

import pytest
import torch
from transformer_references import compare, randomise, t5_reference

from maquette.errors import MaquetteError
from maquette.models import t5_config
from maquette.models.published import T5_XXL
from maquette.models.t5 import T5, bucket
from maquette.models.t5_names import DIALECTS, spec_from_weights
from maquette.weights.view import InMemory

SMALL = replace(T5_XXL, vocabulary=99, width=96, layers=3, heads=4, head_width=16, hidden=160)


def test_transformers_gives_the_same():
    assert max(compare(SMALL).values()) <= 1e-5


def test_buckets_are_those_of_transformers():
    attention = t5_reference(T5(SMALL)).encoder.block[0].layer[0].SelfAttention
    offset = torch.arange(-600, 600)
    assert torch.equal(bucket(offset, 32, 128), attention._relative_position_bucket(offset))


def test_published_shape():
    with torch.device("meta"):
        network = T5(T5_XXL)
    assert sum(parameter.numel() for parameter in network.parameters()) == 4_762_310_656
    for dialect in DIALECTS:
        assert spec_from_weights(dialect.write(network.state_dict(), network)) == T5_XXL
    assert t5_config.from_config(t5_config.to_config(T5_XXL)) == T5_XXL


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_names_go_there_and_back(dialect):
    network = randomise(T5(SMALL))
    back = dialect.read(dialect.write(network.state_dict(), network), network)
    for key, tensor in network.state_dict().items():
        assert torch.equal(tensor, back[key]), key


def test_either_name_of_the_token_embedding_will_do():
    """Files hold it as shared, as embed_tokens, or as both."""
    network = T5(SMALL)
    theirs = dict(DIALECTS[0].write(network.state_dict(), network))
    both = theirs | {"encoder.embed_tokens.weight": theirs["shared.weight"]}
    one = {name: tensor for name, tensor in both.items() if name != "shared.weight"}
    for file, dialect in ((theirs, DIALECTS[0]), (both, DIALECTS[0]), (one, DIALECTS[1])):
        read = dialect.read(InMemory(file), network)
        assert torch.equal(read["token_embedding.weight"], network.token_embedding.weight)
        assert spec_from_weights(InMemory(file)) == SMALL


def test_t5_of_version_1_0_is_refused():
    with pytest.raises(MaquetteError, match=r"feed_forward_proj.*gated-gelu"):
        t5_config.from_config({**t5_config.to_config(SMALL), "feed_forward_proj": "relu"})
