"""Networks: variants share initial weights and, where they are equal, every number."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

import sparsemat as sm
from sparsemat.experiments import models
from sparsemat.experiments.configurations import EXPERIMENTS
from sparsemat.experiments.models.text import ClusteredSoftmax
from sparsemat.experiments.tasks import TASKS

EQUAL = [("tied", "native"), ("tied-linear", "native-linear")]


def example(configuration, count=5):
    """Random inputs and targets of a configuration's shapes, words often repeated."""
    generator = torch.Generator().manual_seed(0)
    network = configuration.network

    def integers(high, *shape):
        return torch.randint(high, shape, generator=generator)

    match network:
        case models.SeriesNetwork():
            inputs = torch.randn(count, network.window, network.variables, generator=generator)
            return inputs.double(), inputs[:, 0].double()
        case models.LanguageModel():
            return integers(network.vocabulary, 2, count, network.length).unbind()
        case models.TextClassifier():
            tokens = integers(network.vocabulary, count, network.length)
            tokens[:, network.length // 2 :] = 0
            return tokens, integers(network.classes, count)
        case models.ImageNetwork():
            images = integers(256, count, network.channels, *network.size)
            return images.to(torch.uint8), integers(network.classes, count)


def loss_and_gradients(configuration, variant):
    model = models.build(configuration.network, variant, seed=3).double()
    inputs, targets = example(configuration)
    task = TASKS[configuration.task]
    torch.manual_seed(5)  # of dropout
    loss = task.loss(task.outputs(model, inputs, targets), targets)
    loss.backward()
    return loss.item(), {name: weight.grad for name, weight in model.named_parameters()}


def quick_pairs():
    for name, experiment in EXPERIMENTS.items():
        for ours, native in EQUAL:
            if ours in experiment.variants:
                yield pytest.param(experiment.profiles["quick"], ours, native, id=f"{name}-{ours}")


@pytest.mark.parametrize(("configuration", "ours", "native"), list(quick_pairs()))
def test_the_matrix_form_has_the_loss_and_the_gradients_of_the_native(configuration, ours, native):
    loss, gradients = loss_and_gradients(configuration, ours)
    expected_loss, expected = loss_and_gradients(configuration, native)
    assert abs(loss - expected_loss) < 1e-11
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_variant_starts_with_the_weights_it_shares(name):
    network = EXPERIMENTS[name].profiles["quick"].network
    native = models.build(network, "native", 0).state_dict()
    for variant in network.variants:
        state = models.build(network, variant, 0).state_dict()
        shared = [key for key in state if key in native and state[key].shape == native[key].shape]
        assert shared
        assert all(torch.equal(state[key], native[key]) for key in shared)
        again = models.build(network, variant, 0).state_dict()
        assert all(torch.equal(state[key], again[key]) for key in state)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_no_matrix_variant_calls_the_native_operation(name, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a native operation was called")

    network = EXPERIMENTS[name].profiles["quick"].network
    inputs, targets = example(EXPERIMENTS[name].profiles["quick"], 2)
    task = TASKS[EXPERIMENTS[name].profiles["quick"].task]
    built = {variant: models.build(network, variant, 0).double() for variant in network.variants}
    for module, function in (
        (torch, "conv2d"),
        (F, "conv2d"),
        (F, "avg_pool2d"),
        (F, "scaled_dot_product_attention"),
        (F, "multi_head_attention_forward"),
        (torch._VF, "rnn_tanh"),
    ):
        monkeypatch.setattr(module, function, refuse)
    monkeypatch.setattr("sparsemat.products.fused.scaled_dot_product_attention", refuse)
    for variant, model in built.items():
        if not variant.startswith("native"):
            task.outputs(model, inputs, targets)
    with pytest.raises(AssertionError, match="native operation"):
        task.outputs(built["native"], inputs, targets)


def test_nonzeros_of_series_and_text_are_those_of_their_matrices():
    series = models.SeriesNetwork(variables=2, window=5, hidden=3)
    n, b = sm.RNN(2, 3).operators(5)
    assert series.nonzeros("tied") == n.pattern.nnz + b.pattern.nnz + 3 * 2
    assert series.nonzeros("free") == 15 + 4
    assert series.nonzeros("scalar") == 2 * 15 + 4
    text = models.TextClassifier(50, 6, 3, dim=4, heads=2, feedforward=8, layers=1, dropout=0.0)
    layer = sm.SelfAttention(4, 2)
    assert (layer.attention(torch.randn(6, 4)) != 0).sum() == 2 * 36
    assert text.nonzeros("tied") == 6 * (4 * 16 + 2 * 32) + 2 * 36 + 4 * 3


def test_the_scalar_matrix_is_the_one_of_section_4_3():
    network = models.SeriesNetwork(variables=3, window=4, hidden=1)
    matrix = models.build(network, "scalar", 0).recurrence
    with torch.no_grad():
        matrix.decay.copy_(torch.tensor([0.5, -0.3, 0.9]))
        matrix.gain.copy_(torch.tensor([2.0, 1.0, -1.0]))
    x = torch.randn(2, 4, 3)
    states, last = matrix(x)
    t, s = torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")
    for k in range(3):
        power = matrix.decay[k] ** (t - s).clamp(min=0)
        dense = torch.where(t >= s, matrix.gain[k] * power, 0)
        torch.testing.assert_close(states[:, :, k], x[:, :, k] @ dense.T)
    assert torch.equal(last[0], states[:, -1])


def test_the_free_matrix_is_lower_triangular_and_serves_every_variable():
    network = models.SeriesNetwork(variables=2, window=4, hidden=1)
    layer = models.build(network, "free", 0).recurrence
    dense = layer.pattern.fill(layer.weight).to_dense()
    assert torch.equal(dense, dense.tril()) and (dense.tril() != 0).sum() == 10
    x = torch.randn(3, 4, 2)
    torch.testing.assert_close(layer(x)[0], torch.einsum("ts,nsd->ntd", dense, x))


@pytest.mark.parametrize("cuts", [(), (3,), (2, 5, 11)], ids=str)
def test_the_clustered_softmax_is_a_distribution_with_the_right_gradient(cuts):
    torch.manual_seed(0)
    softmax = ClusteredSoftmax(12, 4, cuts).double()
    states, words = torch.randn(3, 4).double(), torch.randn(12, 4).double().requires_grad_()
    every = torch.arange(12).repeat(3)
    nats = softmax(states.repeat_interleave(12, 0), every, words)
    torch.testing.assert_close((-nats).exp().view(3, 12).sum(1), torch.ones(3).double())
    if not cuts:
        expected = -(states @ words.T + softmax.bias).log_softmax(1)
        torch.testing.assert_close(nats.view(3, 12), expected)
    assert torch.autograd.gradcheck(
        lambda s, w: softmax(s, every[:3] + 4, w), (states.requires_grad_(), words)
    )


@pytest.mark.parametrize("cuts", [(0,), (12,), (5, 3)], ids=str)
def test_cuts_that_cut_nothing_are_refused(cuts):
    with pytest.raises(ValueError, match=r"between 0 and vocabulary=12, got"):
        ClusteredSoftmax(12, 4, cuts)


def test_a_language_model_sees_no_word_that_comes_later():
    network = replace(EXPERIMENTS["ptb"].profiles["quick"].network, dropout=0.0)
    tokens, targets = example(EXPERIMENTS["ptb"].profiles["quick"], 1)
    for variant in network.variants:
        model = models.build(network, variant, 0).double().eval()
        before = model(tokens, targets)
        changed = tokens.clone()
        changed[0, 40] = (changed[0, 40] + 1) % network.vocabulary
        after = model(changed, targets)
        torch.testing.assert_close(before[0, :40], after[0, :40])
        assert not torch.equal(before[0, 40:], after[0, 40:])


def test_padding_does_not_enter_the_average():
    network = replace(EXPERIMENTS["ag-news"].profiles["quick"].network, dropout=0.0, layers=0)
    model = models.build(network, "tied", 0).double().eval()
    tokens = torch.tensor([[5, 6, 7] + [0] * 61])
    words = model.norm(model.embedding(tokens))[0, :3].mean(0)
    torch.testing.assert_close(model(tokens)[0], model.linear(words))
    assert model(torch.zeros_like(tokens)).isfinite().all()


def test_tasks_report_what_their_name_says():
    logits, labels = torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 1.0]]), torch.tensor([0, 0, 0])
    task = TASKS["classification"]
    assert task.report(task.score(logits, labels).item() / 3) == pytest.approx(200 / 3)
    task = TASKS["forecast"]
    errors = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    assert task.report(task.score(errors, torch.zeros(2, 2)).item() / 2) == pytest.approx(1.25)
    task = TASKS["language"]
    nats = torch.full((4, 8), math.log(50))
    assert task.report(task.score(nats, None).item() / 4) == pytest.approx(50)
