from dataclasses import replace

import pytest
import torch
from transformers import T5Config, T5EncoderModel

from maquette.models.t5 import T5, T5Spec, bucket
from maquette.models.t5_names import DIALECTS, spec_from_weights
from maquette.weights.view import InMemory

XXL = T5Spec()
SMALL = replace(XXL, vocabulary=99, width=96, layers=3, heads=4, head_width=16, hidden=160)


def reference(spec: T5Spec) -> T5EncoderModel:
    config = T5Config(
        vocab_size=spec.vocabulary,
        d_model=spec.width,
        d_kv=spec.head_width,
        d_ff=spec.hidden,
        num_layers=spec.layers,
        num_heads=spec.heads,
        feed_forward_proj="gated-gelu",
    )
    return T5EncoderModel(config).eval()


@torch.inference_mode()
def test_transformers_gives_the_same(parity):
    theirs = reference(SMALL)
    parity.randomise(theirs)
    view = InMemory(theirs.state_dict())
    assert spec_from_weights(view) == SMALL
    ours = T5(SMALL)
    ours.load_state_dict(dict(DIALECTS[0].read(view, ours)))
    ids = torch.randint(99, (2, 300))  # beyond the last distance that has a bucket of its own
    parity.assert_equal(ours(ids), theirs(ids).last_hidden_state)


def test_buckets_are_those_of_transformers():
    attention = reference(SMALL).encoder.block[0].layer[0].SelfAttention
    offset = torch.arange(-600, 600)
    assert torch.equal(bucket(offset, 32, 128), attention._relative_position_bucket(offset))


def test_published_shape():
    with torch.device("meta"):
        network = T5(XXL)
    assert sum(parameter.numel() for parameter in network.parameters()) == 4_762_310_656
    for dialect in DIALECTS:
        assert spec_from_weights(dialect.write(network.state_dict(), network)) == XXL


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_names_go_there_and_back(dialect, parity):
    network = T5(SMALL)
    parity.randomise(network)
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
