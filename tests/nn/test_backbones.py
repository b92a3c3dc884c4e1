"""Backbones: what specifications build, and what users may pass instead."""

import copy

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import nn

from fewshot_sklearn import MLP, Conv4
from fewshot_sklearn.nn import BackboneSpec, build_backbone, embedding_size
from fewshot_sklearn.nn.backbones import RowNorm

ACTIVATIONS = ["relu", "gelu", "silu", "tanh"]
ROW_NORMS = [None, "layer", "rms"]


def rows(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


# ---------------------------------------------------------------------------- specifications


@pytest.mark.parametrize("spec", [MLP(hidden_layer_sizes=(8, 4)), Conv4(n_filters=16)])
def test_sklearn_clones_a_specification_by_its_parameters(spec):
    copied = clone(spec)
    assert copied is not spec
    assert copied == spec
    assert copied.get_params() == spec.get_params()


def test_set_params_sets_by_name_and_returns_the_specification():
    spec = MLP()
    assert spec.set_params(hidden_layer_sizes=(3,), activation="tanh") is spec
    assert spec.get_params()["hidden_layer_sizes"] == (3,)
    assert spec.activation == "tanh"


def test_set_params_refuses_an_unknown_name():
    with pytest.raises(ValueError, match=r"Conv4 has no parameter 'width'; it has \["):
        Conv4().set_params(width=3)


def test_building_leaves_the_specification_as_it_is():
    spec = MLP(hidden_layer_sizes=[5, 6])
    before = copy.deepcopy(spec)
    assert spec.build((4,)) is not spec.build((4,))
    assert spec == before


# ---------------------------------------------------------------------------- MLP


@pytest.mark.parametrize("norm", ROW_NORMS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_mlp_embeds_rows_in_its_last_hidden_layer(activation, norm):
    spec = MLP(hidden_layer_sizes=(7, 5), activation=activation, norm=norm)
    network = spec.build((4,))
    assert network(rows(3, 4)).shape == (3, 5)
    assert embedding_size(network, (4,)) == 5


def test_an_mlp_without_layers_is_the_identity():
    x = rows(3, 4)
    assert torch.equal(MLP(hidden_layer_sizes=()).build((4,))(x), x)


def test_the_embedding_layer_of_an_mlp_is_linear_without_bias():
    network = MLP(hidden_layer_sizes=(7,), embedding_size=3).build((4,))
    x = rows(2, 4)
    assert network(x).shape == (2, 3)
    *hidden, last = network.layers
    assert last.bias is None
    expected = nn.Sequential(*hidden)(x) @ last.weight.T
    torch.testing.assert_close(network(x), expected)


def test_an_mlp_flattens_rows_of_several_axes():
    network = MLP(hidden_layer_sizes=(6,)).build((2, 3))
    x = rows(4, 2, 3)
    assert torch.equal(network(x), network(x.flatten(1)))


def test_dropout_acts_in_meta_training_only():
    network = MLP(hidden_layer_sizes=(64,), dropout=0.5, norm=None, activation="tanh").build((4,))
    x = rows(3, 4)
    assert not torch.equal(network.train()(x), network(x))
    assert torch.equal(network.eval()(x), network(x))


def test_row_norm_is_layer_norm():
    x = rows(5, 6, dtype=torch.float64)
    norm = RowNorm(6).double()
    reference = nn.LayerNorm(6).double()
    with torch.no_grad():
        for ours, theirs in zip(norm.parameters(), reference.parameters(), strict=True):
            ours.copy_(theirs.copy_(rows(6, dtype=torch.float64)))
    torch.testing.assert_close(norm(x), reference(x))


# ---------------------------------------------------------------------------- Conv4


@pytest.mark.parametrize(
    ("image_shape", "n_filters", "n_blocks", "width"),
    [((1, 28, 28), 64, 4, 64), ((3, 20, 24), 6, 2, 6 * 5 * 6), ((2, 8, 8), 5, 3, 5)],
)
def test_conv4_embeds_images_in_what_halving_leaves(image_shape, n_filters, n_blocks, width):
    spec = Conv4(image_shape=image_shape, n_filters=n_filters, n_blocks=n_blocks)
    network = spec.build(image_shape)
    assert network(rows(2, *image_shape)).shape == (2, width)
    assert embedding_size(network, image_shape) == width


@pytest.mark.parametrize(("n_pools", "side"), [(None, 1), (4, 1), (2, 4), (1, 8), (0, 16)])
def test_the_first_n_pools_blocks_of_conv4_halve_the_images(n_pools, side):
    spec = Conv4(image_shape=(1, 16, 16), n_filters=8, n_pools=n_pools)
    network = spec.build((1, 16, 16))
    assert network.map_shape == (8, side, side)
    assert network(rows(2, 1, 16, 16)).shape == (2, 8 * side * side)
    pooled = [any(isinstance(m, nn.MaxPool2d) for m in block) for block in network.blocks]
    assert pooled == [i < (4 if n_pools is None else n_pools) for i in range(4)]


def test_an_embedding_of_conv4_is_its_feature_maps_laid_flat():
    network = Conv4(image_shape=(1, 8, 12), n_filters=4, n_blocks=2, n_pools=1).build((1, 8, 12))
    x = rows(3, 1, 8, 12)
    assert network.map_shape == (4, 4, 6)
    torch.testing.assert_close(network(x).unflatten(1, network.map_shape), network.blocks(x))


def test_fewer_poolings_take_smaller_images():
    assert Conv4(image_shape=(1, 4, 4), n_pools=2).build((16,))(rows(2, 16)).shape == (2, 64)


def test_conv4_takes_flat_rows_and_images_with_or_without_the_channel_axis():
    network = Conv4(image_shape=(1, 16, 16), n_filters=4).build((256,))
    x = rows(3, 1, 16, 16)
    z = network(x)
    assert torch.equal(network(x.flatten(1)), z)
    assert torch.equal(network(x[:, 0]), z)
    assert Conv4(image_shape=(1, 16, 16)).build((16, 16)) is not None


@pytest.mark.parametrize("norm", ["group", None])
def test_pooling_before_relu_is_relu_before_pooling(norm):
    network = Conv4(image_shape=(2, 16, 16), n_filters=8, norm=norm).build((2, 16, 16)).double()
    x = rows(3, 2, 16, 16, dtype=torch.float64)
    z = x
    for block in network.blocks:
        *before, pool, relu = block
        assert isinstance(pool, nn.MaxPool2d)
        z = pool(relu(nn.Sequential(*before)(z)))
    torch.testing.assert_close(network(x), z.flatten(1), rtol=1e-12, atol=1e-12)


def test_conv4_is_the_same_in_chunks_and_at_once():
    network = Conv4(image_shape=(1, 16, 16), n_filters=8).build((1, 16, 16)).double()
    x = rows(10, 1, 16, 16, dtype=torch.float64)
    at_once = network(x)
    n_calls = 0

    def count(module, inputs):
        nonlocal n_calls
        n_calls += 1

    network.blocks[0].register_forward_pre_hook(count)
    network.bytes_per_row = 32 * 2**20 // 3
    torch.testing.assert_close(network(x), at_once, rtol=1e-12, atol=1e-12)
    assert n_calls == 4


def test_conv4_embeds_no_rows_as_no_rows():
    network = Conv4(image_shape=(1, 16, 16), n_filters=8).build((1, 16, 16))
    assert network(rows(0, 1, 16, 16)).shape == (0, 8)


@pytest.mark.parametrize("side", [16, 20])
@pytest.mark.parametrize("n_channels", [1, 3])
def test_convolutions_run_in_channels_last(n_channels, side):
    shape = (n_channels, side, side)
    network = Conv4(image_shape=shape, n_filters=8).build(shape)
    strides = []
    for block in network.blocks:
        block[-2].register_forward_pre_hook(lambda module, x: strides.append(x[0].stride()))
    network(rows(2, *shape).flatten(1))
    assert [stride[1] for stride in strides] == [1] * 4
    assert strides[0] == (8 * side * side, 1, 8 * side, 8)


def test_groups_divide_the_filters():
    for n_filters, n_groups in ((64, 8), (12, 4), (6, 2), (5, 1)):
        network = Conv4(image_shape=(1, 8, 8), n_filters=n_filters, n_blocks=1).build((64,))
        assert network.blocks[0][1].num_groups == n_groups


def test_a_convolution_has_a_bias_only_where_no_norm_has_one():
    for norm, has_bias in (("group", False), ("batch", False), (None, True)):
        network = Conv4(image_shape=(1, 8, 8), n_blocks=1, norm=norm).build((64,))
        assert (network.blocks[0][0].bias is not None) == has_bias


# ---------------------------------------------------------------------------- independence of rows


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "spec",
    [MLP(hidden_layer_sizes=(8, 6), norm=norm) for norm in ROW_NORMS]
    + [Conv4(image_shape=(1, 4, 5), n_filters=8, n_blocks=2, norm=n) for n in ("group", None)],
    ids=str,
)
def test_a_row_is_embedded_alone_as_among_others(spec, training):
    network = spec.build((20,)).double().train(training)
    x = rows(6, 20, dtype=torch.float64)
    alone = torch.cat([network(x[i : i + 1]) for i in range(len(x))])
    torch.testing.assert_close(network(x), alone, rtol=1e-10, atol=1e-12)


def test_batch_norm_mixes_rows_in_training_and_not_afterwards():
    network = Conv4(image_shape=(1, 8, 8), n_filters=8, n_blocks=2, norm="batch").build((64,))
    x = rows(6, 64)
    network.train()
    assert not torch.allclose(network(x)[:2], network(x[:2]))
    network.eval()
    torch.testing.assert_close(network(x)[:2], network(x[:2]))


def test_a_batch_norm_sees_all_rows_at_once():
    network = Conv4(image_shape=(1, 8, 8), n_filters=8, n_blocks=1, norm="batch").build((64,))
    network.bytes_per_row = 32 * 2**20
    seen = []
    network.blocks[0].register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    network(rows(6, 64))
    assert seen == [6]


# ---------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (MLP(activation="sine"), r"MLP's activation must be one of \['relu', .*got 'sine'"),
        (MLP(norm="batch"), r"MLP's norm must be one of \[None, 'layer', 'rms'\], got 'batch'"),
        (Conv4(norm="layer"), r"Conv4's norm must be one of \[.*\], got 'layer'"),
        (
            Conv4(image_shape=(3, 28, 28)),
            r"a row of X has the shape \(784,\); set image_shape to the shape of your images",
        ),
        (Conv4(image_shape=(28, 28)), r"needs \(channels, height, width\)"),
        (
            Conv4(image_shape=(49, 4, 4)),
            r"halves images 4 times, so .* at least 16, but .*; lower n_blocks or n_pools",
        ),
        (
            Conv4(image_shape=(1, 28, 28), n_pools=5),
            r"n_pools must be None or from 0 to n_blocks=4, got 5",
        ),
        (Conv4(image_shape=(1, 28, 28), n_pools=-1), r"n_pools must be .*, got -1"),
    ],
)
def test_a_specification_that_cannot_be_built_says_what_must_hold(spec, sentence):
    with pytest.raises(ValueError, match=sentence):
        spec.build((784,))


def test_a_specification_class_in_place_of_a_specification_says_so():
    with pytest.raises(TypeError, match=r"must be a specification, not its class: MLP\(\)"):
        build_backbone(MLP, (4,))


@pytest.mark.parametrize("backbone", ["mlp", 3, lambda input_shape: "a network"])
def test_what_is_no_backbone_says_what_is(backbone):
    with pytest.raises(TypeError, match="backbone must be a specification such as MLP"):
        build_backbone(backbone, (4,))


@pytest.mark.parametrize("network", [nn.Unflatten(1, (2, 2)), nn.Flatten(0)])
def test_a_network_that_does_not_embed_rows_is_told_to_flatten(network):
    with pytest.raises(ValueError, match=r"must embed rows \[N, \*\] as \[N, D\].*flatten its"):
        embedding_size(network, (4,))


# ---------------------------------------------------------------------------- what users pass


def test_without_a_backbone_flat_rows_get_an_mlp_and_images_a_conv4():
    assert type(build_backbone(None, (4,))).__name__ == "MLPBackbone"
    network = build_backbone(None, (3, 16, 16))
    assert type(network).__name__ == "Conv4Backbone"
    assert network.image_shape == (3, 16, 16)


def test_a_users_module_is_copied_with_its_weights_and_not_changed():
    module = nn.Linear(4, 3)
    network = build_backbone(module, (4,))
    assert network is not module
    assert torch.equal(network.weight, module.weight)
    before = module.weight.clone()
    with torch.no_grad():
        network.weight.add_(1)
    assert torch.equal(module.weight, before)


def test_a_class_or_function_is_called_with_the_shape_of_a_row():
    class Net(nn.Module):
        def __init__(self, input_shape):
            super().__init__()
            self.layer = nn.Linear(int(np.prod(input_shape)), 2)

        def forward(self, x):
            return self.layer(x.flatten(1))

    for backbone in (Net, lambda shape: Net(shape)):
        network = build_backbone(backbone, (2, 3))
        assert isinstance(network, Net)
        assert embedding_size(network, (2, 3)) == 2


def test_a_users_specification_is_built():
    class Identity(BackboneSpec):
        def build(self, input_shape):
            return nn.Flatten()

    assert isinstance(build_backbone(Identity(), (4,)), nn.Flatten)


@pytest.mark.parametrize("training", [True, False])
def test_measuring_the_embedding_changes_neither_mode_nor_running_statistics(training):
    network = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout()).train(training)
    before = copy.deepcopy(network.state_dict())
    assert embedding_size(network, (4,)) == 3
    assert all(module.training == training for module in network.modules())
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])
