"""Every engine says what the net says, for any size, on one thread as on two; and what there is not is refused."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.nets import slow_but
from torch import nn

import fullconv
from fullconv.backends import torch_cpu
from fullconv.config import ModelConfig
from fullconv.errors import UsageError
from fullconv.optimize import autotune
from fullconv.optimize.compiled import ENGINES, PRECISIONS, CompiledModel, check, installed
from fullconv.optimize.fold_batchnorm import folded
from fullconv.optimize.im2col import RowsConv2d
from fullconv.optimize.winograd import WinogradConv2d

USED = [engine for engine in installed() if engine != "compile"]
NETS = {
    "vgg11_bn": ModelConfig("vgg11_bn", 8, 4, width=1 / 16, padding="paper"),
    "vgg11": ModelConfig("vgg11", 32, 4, width=1 / 16, padding="paper", upsample="learn-all"),
    "caffenet": ModelConfig("caffenet", 32, 4, padding="paper", width=1.0),
    "mobilenet_v2": ModelConfig("mobilenet_v2", 8, 4),
    "two streams": ModelConfig("vgg11", 16, 4, width=1 / 16, padding="paper", late_fusion="average"),
    "two heads": ModelConfig("vgg11", 8, 4, width=1 / 16, geometric_classes=3),
}
NARROW = [name for name in NETS if name not in ("caffenet", "mobilenet_v2")]
# AlexNet's layers are exported to ONNX and compared in tests/backends/test_onnx.py.
ENGINES_OF = [(name, engine) for name in NETS for engine in USED if (name, engine) != ("caffenet", "onnx")]


def trained(config):
    """A net whose weights and averages are not those that it begins with."""
    torch.manual_seed(0)
    net = fullconv.build(config).eval()
    for name, parameter in net.named_parameters():
        if name.startswith("score") or parameter.ndim == 1:
            nn.init.normal_(parameter, std=0.3)
    for name, buffer in net.named_buffers():
        if name.endswith("running_mean"):
            nn.init.normal_(buffer)
        elif name.endswith("running_var"):
            nn.init.uniform_(buffer, 0.5, 2)
    return net


def by_task(found):
    return found if isinstance(found, dict) else {"semantic": found}


def image(net, size, count=1):
    return torch.randn(count, net.config.channels * len(net.streams), *size)


def compare(net, prepared, x):
    """The largest difference as a share of the range, and the share of equal labels."""
    with torch.inference_mode():
        wanted = by_task(net(x))
    found = by_task(prepared(x))
    assert found.keys() == wanted.keys()
    ranges = {task: float(scores.max() - scores.min()) for task, scores in wanted.items()}
    return (
        max(float((found[task] - scores).abs().max()) / ranges[task] for task, scores in wanted.items()),
        min(float((found[task].argmax(1) == scores.argmax(1)).float().mean()) for task, scores in wanted.items()),
    )


@pytest.mark.parametrize("name, engine", slow_but([(name, "torch") for name in NARROW], ENGINES_OF))
def test_an_engine_says_what_the_net_says(name, engine):
    net = trained(NETS[name])
    prepared = CompiledModel(net, engine)
    for size in ((66, 90), (35, 41)) if engine == "torch" else ((66, 90),):
        difference, labels = compare(net, prepared, image(net, size, count=2))
        assert difference <= 1e-4 and labels >= 0.999


@pytest.mark.parametrize("name", slow_but(NARROW, NETS))
def test_bf16_has_nearly_the_same_labels(name):
    net = trained(NETS[name])
    difference, labels = compare(net, CompiledModel(net, "torch", "bf16"), image(net, (64, 96)))
    assert 0 < difference <= 0.05 and labels >= 0.97


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 120), st.integers(1, 120), st.integers(1, 2), st.integers(0, 2))
def test_any_size_batch_and_warmup(height, width, count, warmup):
    net = ANY
    prepared = CompiledModel(net, "torch", warmup=warmup)
    for _ in range(2):
        difference, _ = compare(net, prepared, image(net, (height, width), count))
        assert difference <= 1e-5


ANY = trained(NETS["vgg11_bn"])


@pytest.fixture
def all_filtered(monkeypatch):
    """Every layer that can multiply less does, also where it is not worth it; so nets may be narrow."""
    monkeypatch.setattr("fullconv.optimize.winograd.WORTH", 0.01)
    monkeypatch.setattr("fullconv.optimize.im2col.LEAST_POINT_WEIGHTS", 0)


@pytest.mark.parametrize("name", slow_but(NARROW, NETS))
def test_fewer_multiplications_are_the_same_scores(name, all_filtered):
    net = trained(NETS[name])
    prepared = CompiledModel(net, "torch")
    for size in ((66, 90), (35, 41)):
        difference, labels = compare(net, prepared, image(net, size, count=2))
        assert difference <= 1e-5 and labels >= 0.9999
    layers = {type(layer) for layer in prepared.accelerate(prepared.net).modules()}
    assert (WinogradConv2d in layers) == (name != "mobilenet_v2") and RowsConv2d in layers


def test_sizes_that_come_once_multiply_less_too(all_filtered):
    prepared = CompiledModel(ANY, "torch", warmup=1)
    for number, size in enumerate(((40, 50), (44, 50), (40, 54), (40, 50))):
        assert bool(prepared.accelerate.kept) == (number > 1)
        difference, _ = compare(ANY, prepared, image(ANY, size))
        assert difference <= 1e-5
    assert list(prepared.variants) == [(40, 50)]


def test_weights_are_kept_a_second_time_once_and_only_where_there_is_room(all_filtered, monkeypatch):
    prepared = CompiledModel(ANY, "torch")
    monkeypatch.setattr(torch_cpu.process_memory, "available", lambda: 0)
    prepared.coarse(image(ANY, (40, 40)))
    assert not prepared.accelerate.kept
    monkeypatch.setattr(torch_cpu.process_memory, "available", lambda: 1 << 30)
    prepared.coarse(image(ANY, (41, 40)))
    kept = dict(prepared.accelerate.kept)
    prepared.coarse(image(ANY, (42, 40)))
    assert kept and kept == prepared.accelerate.kept


@pytest.mark.slow
@pytest.mark.skipif("openvino" not in USED, reason="openvino is not installed")
def test_a_size_that_is_new_goes_before_its_form_is_made():
    prepared = CompiledModel(ANY, "openvino", "bf16", warmup=1)
    x = image(ANY, (64, 64))
    first, second = prepared(x), prepared(x)
    assert not torch.equal(first, second) and (first.argmax(1) == second.argmax(1)).float().mean() >= 0.97


def test_one_thread_says_what_two_say():
    x, threads = image(ANY, (90, 70)), torch.get_num_threads()
    try:
        found = []
        for number in (1, 2):
            torch.set_num_threads(number)
            found.append(CompiledModel(ANY, "torch")(x))
    finally:
        torch.set_num_threads(threads)
    assert (found[0] - found[1]).abs().max() <= 1e-5 * (found[0].max() - found[0].min())


def test_the_same_image_gives_the_same_bits():
    x, prepared = image(ANY, (61, 83)), CompiledModel(ANY, "torch")
    assert torch.equal(prepared(x), prepared(x))


def test_few_sizes_are_kept_and_old_ones_made_again():
    prepared = CompiledModel(ANY, "torch")
    first = image(ANY, (33, 33))
    before = prepared(first)
    for side in range(34, 34 + 2 * prepared.kept):
        prepared(image(ANY, (side, 33)))
    assert len(prepared.variants) == prepared.kept and (33, 33) not in prepared.variants
    assert torch.equal(prepared(first), before)


def test_the_net_itself_is_left_as_it_is():
    net = trained(NETS["vgg11_bn"])
    before = {name: (tensor.clone(), tensor.stride()) for name, tensor in net.state_dict().items()}
    CompiledModel(net, "torch", "bf16")(image(net, (40, 40)))
    CompiledModel(net, "torch")(image(net, (40, 40)))
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name][0]) and tensor.stride() == before[name][1], name


@pytest.mark.parametrize("name", slow_but(NARROW, NETS))
def test_folding_leaves_the_scores_and_no_norm_behind_a_convolution(name):
    net = trained(NETS[name]).double()
    x = image(net, (50, 60)).double()
    with torch.inference_mode():
        wanted, found = by_task(net(x)), by_task(folded(net)(x))
    for task, scores in wanted.items():
        assert (found[task] - scores).abs().max() <= 1e-12 * scores.abs().max()
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in folded(net).modules())


def test_the_fastest_that_agrees_is_chosen():
    slow, fast, wrong = (
        autotune.Trial("torch", "fp32", 2.0, 0.0, 1.0),
        autotune.Trial("onnx", "fp32", 1.0, 1e-6, 1.0),
        autotune.Trial("openvino", "fp32", 0.5, 1e-3, 1.0),
    )
    assert autotune.fastest([slow, fast, wrong]) is fast
    assert autotune.Trial("torch", "bf16", 1.0, 0.01, 0.996).agrees
    assert not autotune.Trial("torch", "bf16", 1.0, 0.01, 0.99).agrees


def test_compiling_by_itself_takes_the_fastest_that_agrees_at_its_size(monkeypatch):
    seen = []

    def tried(net, x, precisions, engines):
        seen.append((tuple(x.shape), precisions, engines))
        return [autotune.Trial("onnx", "fp32", 1.0, 1e-2, 1.0), autotune.Trial("torch", "fp32", 2.0, 0.0, 1.0)]

    monkeypatch.setattr(autotune, "installed", lambda: ["torch", "compile", "onnx"])
    monkeypatch.setattr(autotune, "benchmark", tried)
    found = fullconv.compile(ANY, (40, 50))
    assert found.engine == "torch" and list(found.variants) == [(40, 50)]
    assert seen == [((1, 3, 40, 50), ["fp32"], ["onnx", "torch"])]
    monkeypatch.setattr(autotune, "benchmark", lambda *given: [])
    assert fullconv.compile(ANY, (40, 50)).engine == "torch"
    with pytest.raises(UsageError, match="export MODEL --int8"):
        fullconv.compile(ANY, precision="int8")


@pytest.mark.slow
def test_what_was_tried_agrees_and_is_remembered_for_this_net_alone(tmp_path):
    trials = autotune.benchmark(ANY, image(ANY, (64, 64)), rounds=1)
    assert {trial.engine for trial in trials} == set(USED)
    assert all(trial.agrees for trial in trials if trial.precision == "fp32")
    model = tmp_path / "model.safetensors"
    best = autotune.fastest(trials)
    assert autotune.cached_choice(model, "a" * 64, "auto") is None
    assert autotune.remember(model, "a" * 64, "auto", best)
    assert autotune.cached_choice(model, "a" * 64, "auto") == best
    assert (
        autotune.cached_choice(model, "b" * 64, "auto") is None
        and autotune.cached_choice(model, "a" * 64, "fp32") is None
    )
    autotune.place_of(model).write_text("no JSON")
    assert autotune.cached_choice(model, "a" * 64, "auto") is None


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path):
    trial = autotune.Trial("torch", "fp32", 1.0, 0.0, 1.0)
    (tmp_path / "file").write_text("")
    assert not autotune.remember(tmp_path / "file" / "model.safetensors", "a" * 64, "auto", trial)


@pytest.mark.parametrize(
    ("engine", "precision", "said"),
    [("torsch", "fp32", "did you mean 'torch'"), ("torch", "int8", "export MODEL --int8"), ("onnx", "bf16", "One of")],
)
def test_what_there_is_not_is_refused_with_the_way_out(engine, precision, said):
    with pytest.raises(UsageError, match=said):
        check(engine, precision)


def test_an_engine_that_is_not_installed_names_its_extra(monkeypatch):
    monkeypatch.setattr("fullconv.optimize.compiled.find_spec", lambda name: None)
    assert installed() == ["torch", "compile"]
    with pytest.raises(UsageError, match=r"pip install 'fullconv\[openvino\]'"):
        check("openvino", "fp32")


def test_every_engine_has_its_precisions():
    assert set(PRECISIONS) == set(ENGINES) and all("fp32" in precisions for precisions in PRECISIONS.values())


@pytest.mark.slow
@pytest.mark.parametrize("engine", [engine for engine in USED if engine != "torch"])
def test_four_threads_bring_sizes_that_are_new(engine):
    """Nets are exported for each size, in any thread: one after the other, and each thread gets what it asked for."""
    net = trained(ModelConfig("lenet", 4, 4))
    nets = [CompiledModel(net, engine), CompiledModel(net, engine)]
    given = [image(net, (32 + n % 5, 32 + n // 5)) for n in range(6)]
    with torch.inference_mode():
        wanted = [net(x) for x in given]
    together = threading.Barrier(4)

    def work(thread):
        together.wait(timeout=60)
        order = [(n + thread) % len(given) for n in range(len(given))]
        return [(n, nets[n % 2](given[n])) for n in order]

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(work, range(4)):
            for n, logits in found:
                torch.testing.assert_close(logits, wanted[n], rtol=1e-3, atol=1e-3)
