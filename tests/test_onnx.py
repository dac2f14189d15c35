"""Every kind of layer as an ONNX model, run by onnxruntime; neither is a dependency of the book."""

import pytest
import torch

import sparsemat as sm

pytest.importorskip("onnxscript", reason="needs onnx, onnxscript and onnxruntime")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")
pytestmark = pytest.mark.filterwarnings("ignore")  # of the exporter, about itself

CONV = {"in_channels": 2, "out_channels": 3, "kernel_size": 3, "padding": 1, "input_size": 5}
SERIES = {"input_size": 3, "hidden_size": 4, "batch_first": True}
LAYERS = {
    "Conv2d": (lambda: sm.Conv2d(**CONV), (2, 5, 5)),
    "Conv2d, untied": (lambda: sm.Conv2d(**CONV, tied=False), (2, 5, 5)),
    "Conv2d, native": (lambda: sm.Conv2d(**CONV, form="native"), (2, 5, 5)),
    "Conv2d, general": (lambda: sm.Conv2d(**CONV, form="general"), (2, 5, 5)),
    "ConvTranspose2d": (lambda: sm.ConvTranspose2d(**CONV, stride=2), (2, 5, 5)),
    "AvgPool2d": (lambda: sm.AvgPool2d(3, 1, 1, count_include_pad=False, input_size=4), (2, 4, 4)),
    "AdaptiveAvgPool2d": (lambda: sm.AdaptiveAvgPool2d(3, input_size=4), (2, 4, 4)),
    "MaxPool2d": (lambda: sm.MaxPool2d(2, input_size=4), (2, 4, 4)),
    "SparseLinear": (lambda: sm.SparseLinear(sm.conv_pattern(1, 1, 5, 2)), (5,)),
    "RNN": (lambda: sm.RNN(**SERIES), (5, 3)),
    "LSTM": (lambda: sm.LSTM(**SERIES), (5, 3)),
    "GRU": (lambda: sm.GRU(**SERIES), (5, 3)),
    "SelfAttention": (lambda: sm.SelfAttention(4, 2, batch_first=True), (5, 4)),
}


@pytest.mark.parametrize("sizes", [(3,), (3, 1, 5)], ids=["one batch size", "any batch size"])
@pytest.mark.parametrize("build, shape", LAYERS.values(), ids=LAYERS)
def test_onnxruntime_computes_the_same(build, shape, sizes):
    torch.manual_seed(0)
    layer, x = build().eval(), torch.randn(sizes[0], *shape)
    dynamic = ({0: torch.export.Dim.DYNAMIC},) if len(sizes) > 1 else None
    program = torch.onnx.export(layer, (x,), dynamo=True, verbose=False, dynamic_shapes=dynamic)
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    for size in sizes:
        x = torch.randn(size, *shape)
        expected = layer(x)
        expected = expected[0] if isinstance(expected, tuple) else expected
        actual = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
        torch.testing.assert_close(torch.from_numpy(actual), expected.detach())
