"""A block that normalises after pooling against torch's layers in their usual order."""

import copy

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call, grad, vmap
from torch.testing import assert_close

from fewshot_sklearn import Conv4
from fewshot_sklearn.nn import conv_block
from fewshot_sklearn.nn.conv_block import ConvBlock, channel_moments, in_pieces

SIDE = 20  # large enough for the normalisation after pooling
EXACT = {torch.float32: 2e-5, torch.float64: 1e-12}


def images(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def make_block(n_channels=2, n_filters=8, n_groups=4, dtype=torch.float64):
    """Return a block whose normalisation scales by numbers of both signs."""
    norm = nn.GroupNorm(n_groups, n_filters)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return ConvBlock(n_channels, n_filters, [norm], pools=True).to(dtype)


def in_usual_order(block, x):
    """Return ReLU before pooling, of images with the channels first."""
    conv, norm, pool, relu = block
    return pool(relu(norm(conv(x.contiguous()))))


def block_gradients(forward, block, x):
    """Return the gradients of a nonlinear loss for the images and every parameter."""
    x = x.clone().requires_grad_()
    return torch.autograd.grad(forward(block, x).sin().square().sum(), [x, *block.parameters()])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(3, 2, SIDE, SIDE), (1, 2, 21, 23), (3, 2, 8, 8)])
def test_a_block_and_its_gradients_are_those_of_torchs_layers(shape, dtype):
    block, x = make_block(dtype=dtype), images(*shape, dtype=dtype)
    x = x.to(memory_format=torch.channels_last)
    tolerance = {"rtol": EXACT[dtype], "atol": EXACT[dtype]}
    assert_close(block(x), in_usual_order(block, x), **tolerance)
    ours = block_gradients(ConvBlock.__call__, block, x)
    theirs = block_gradients(in_usual_order, block, x)
    for a, b in zip(ours, theirs, strict=True):
        assert_close(a, b, rtol=EXACT[dtype], atol=EXACT[dtype] * b.abs().max().item())


def test_large_images_are_normalised_after_pooling_and_small_ones_by_the_layer():
    block, sizes = make_block(), []
    block[1].register_forward_pre_hook(lambda module, x: sizes.append(x[0].shape[-1]))
    for side in (8, SIDE):
        block(images(2, 2, side, side))
    assert sizes == [8]


def test_in_reduced_precision_the_layer_normalises():
    block, x = make_block(dtype=torch.float32), images(2, 2, SIDE, SIDE, dtype=torch.float32)
    called = []
    block[1].register_forward_pre_hook(lambda module, x: called.append(module))
    with torch.autocast("cpu", torch.bfloat16):
        z = block(x)
    assert called
    assert_close(z.float(), block(x), rtol=0.1, atol=0.1)


def test_the_memory_format_of_the_images_changes_nothing():
    block, x = make_block(), images(3, 2, SIDE, SIDE)
    last = x.to(memory_format=torch.channels_last)
    assert_close(block(x), block(last), rtol=1e-12, atol=1e-12)


def test_a_blank_image_is_normalised_as_torch_does():
    block, x = make_block(), torch.zeros(2, 2, SIDE, SIDE, dtype=torch.float64)
    assert_close(block(x), in_usual_order(block, x))
    for gradient in block_gradients(ConvBlock.__call__, block, x):
        assert gradient.isfinite().all()


def test_pieces_of_rows_give_what_all_rows_give(monkeypatch):
    block, x = make_block(), images(7, 2, SIDE, SIDE)
    at_once, sizes = in_pieces(block, x, 8), []
    monkeypatch.setattr(conv_block, "_CACHE_BYTES", 3 * 8 * 8 * SIDE**2)
    block.register_forward_pre_hook(lambda module, x: sizes.append(len(x[0])))
    assert_close(in_pieces(block, x, 8), at_once, rtol=1e-12, atol=1e-12)
    assert sizes == [3, 3, 1]


def test_the_names_of_the_parameters_are_those_of_a_sequence_of_layers():
    names = Conv4(n_filters=8).build((28, 28)).state_dict().keys()
    expected = [
        f"blocks.{i}.{name}" for i in range(4) for name in ("0.weight", "1.weight", "1.bias")
    ]
    assert list(names) == expected


# ---------------------------------------------------------------------------- derivatives


def test_moments_are_means_and_their_derivatives_are_right():
    x = images(2, 3, 2, 4).requires_grad_()
    mean, square = channel_moments(x)
    assert_close(mean, x.mean((2, 3)))
    assert_close(square, x.square().mean((2, 3)))
    assert gradcheck(channel_moments, x)
    assert gradgradcheck(channel_moments, x)


def test_moments_of_stacked_images_are_those_of_each():
    x = images(4, 2, 3, 5, 5)

    def energy(x):
        return sum(m.square().sum() for m in channel_moments(x))

    expected = torch.stack([grad(energy)(each) for each in x])
    assert_close(vmap(grad(energy))(x), expected, rtol=1e-12, atol=1e-12)


def meta_gradient(forward, block, x):
    """Return the gradient through an inner step that moves every weight."""
    start = dict(block.named_parameters())
    loss = forward(start, x[:2]).sin().square().mean()
    inner = torch.autograd.grad(loss, list(start.values()), create_graph=True)
    moved = {k: p - 0.5 * g for (k, p), g in zip(start.items(), inner, strict=True)}
    outer = forward(moved, x[2:]).cos().mean()
    return torch.autograd.grad(outer, list(start.values()))


def test_a_second_order_meta_gradient_is_that_of_torchs_layers():
    block, x = make_block(n_channels=1), images(5, 1, SIDE, SIDE)
    conv, norm, pool, relu = copy.deepcopy(block)
    usual = nn.Sequential(conv, norm, relu, pool)
    ours = meta_gradient(lambda w, x: functional_call(block, w, x), block, x)
    theirs = meta_gradient(lambda w, x: functional_call(usual, w, x), usual, x)
    for a, b in zip(ours, theirs, strict=True):
        assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_torch_func_gives_the_same_gradient():
    block, x = make_block(), images(2, 2, SIDE, SIDE)
    weights = dict(block.named_parameters())

    def loss(weights):
        return functional_call(block, weights, x).sin().square().sum()

    expected = torch.autograd.grad(loss(weights), list(weights.values()))
    for a, b in zip(grad(loss)(weights).values(), expected, strict=True):
        assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_stacked_weights_give_each_tasks_gradient():
    block, x = make_block(), images(3, 2, 2, SIDE, SIDE)
    weights = {
        k: torch.stack([p * (1 + 0.1 * t) for t in range(3)]).detach()
        for k, p in block.named_parameters()
    }

    def loss(weights, x):
        return functional_call(block, weights, x).sin().square().sum()

    stacked = vmap(grad(loss))(weights, x)
    for t in range(3):
        alone = grad(loss)({k: w[t] for k, w in weights.items()}, x[t])
        for name, g in alone.items():
            assert_close(stacked[name][t], g, rtol=1e-10, atol=1e-10)
