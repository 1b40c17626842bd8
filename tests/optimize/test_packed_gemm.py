"""Products with weights that are laid out in advance are the products, also where there is no such layout."""

import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fullconv.optimize import packed_gemm
from fullconv.optimize.packed_gemm import Matrices, Matrix, Workspace, packs

CLOSE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float64: 1e-12}


@pytest.fixture(params=["packed", "plain"])
def layout(request, monkeypatch):
    monkeypatch.setattr(packed_gemm, "LARGE", 0)
    if request.param == "plain":
        monkeypatch.setattr(packed_gemm, "_packing_works", lambda kind: False)
    elif not packs(torch.zeros(1, 1)):
        pytest.skip("this torch lays nothing out")
    return request.param


@pytest.mark.parametrize("kind", CLOSE)
@pytest.mark.parametrize("bias", [False, True])
def test_one_is_the_product(layout, kind, bias):
    torch.manual_seed(0)
    for rows, channels, features in ((1, 1, 1), (7, 3, 5), (64, 130, 33), (2, 512, 700)):
        x, weight, more = torch.randn(rows, channels), torch.randn(features, channels), torch.randn(features) * bias
        x, weight, more = x.to(kind), weight.to(kind), more.to(kind)
        matrix = Matrix(weight)
        assert matrix.packed == (layout == "packed" and kind is not torch.float64)
        wanted = x.double() @ weight.double().t() + more
        found = matrix(x, more if bias else None)
        assert found.dtype is kind and (found - wanted).abs().max() <= CLOSE[kind] * max(1, wanted.abs().max())
        assert torch.equal(matrix(x[None, None], more if bias else None)[0, 0], found)


@pytest.mark.parametrize("kind", CLOSE)
def test_several_are_each_its_own(layout, kind):
    torch.manual_seed(0)
    weights = [torch.randn(6, 9).to(kind) for _ in range(4)]
    x, places = torch.randn(5, 4, 9).to(kind).transpose(0, 1), torch.empty(4, 5, 6, dtype=kind)
    wanted = torch.stack([rows.double() @ weight.double().t() for rows, weight in zip(x, weights, strict=True)])
    made = Matrices(weights)
    assert not weights and made.features == 6
    found = made(x, places)
    assert found.data_ptr() == places.data_ptr()
    assert (found - wanted).abs().max() <= CLOSE[kind] * wanted.abs().max()


def test_a_torch_without_these_calls_goes_without(monkeypatch):
    for problem in (AttributeError, NotImplementedError, RuntimeError, TypeError):

        def missing(*words, problem=problem):
            raise problem("no such call")

        packed_gemm._packing_works.cache_clear()
        monkeypatch.setattr(packed_gemm, "_packed", missing)
        assert not packs(torch.zeros(2, 2))
        assert torch.equal(Matrix(torch.eye(2))(torch.ones(1, 2)), torch.ones(1, 2))
    packed_gemm._packing_works.cache_clear()


def test_calls_that_answer_wrongly_are_not_made(monkeypatch):
    packed_gemm._packing_works.cache_clear()
    monkeypatch.setattr(packed_gemm, "_product", lambda rows, weight, bias: torch.zeros(2, 3))
    assert not packs(torch.zeros(2, 2))
    packed_gemm._packing_works.cache_clear()


@settings(max_examples=30)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 50), st.sampled_from([torch.float32, torch.bfloat16]))))
def test_what_is_taken_has_its_shape_and_kind_and_stays_apart(wishes):
    space, last = Workspace(), {}
    for name, size, kind in wishes:
        taken = space.take(name, (2, size), torch.empty(0, dtype=kind))
        assert taken.shape == (2, size) and taken.dtype is kind and taken.is_contiguous()
        last[name, kind] = taken.fill_(size)
        assert all((tensor == tensor.shape[1]).all() for tensor in last.values())


def test_each_thread_has_its_own():
    space, found = Workspace(), []
    like = torch.zeros(1)
    threads = [threading.Thread(target=lambda: found.append(space.take("a", (9,), like))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({tensor.data_ptr() for tensor in [*found, space.take("a", (9,), like)]}) == 3
