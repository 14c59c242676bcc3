"""torch tensors in and out, and every kind of tensor that is no plain memory."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest

from raphson import orthogonalize

BF16 = np.dtype(ml_dtypes.bfloat16)


@pytest.fixture
def x(rng) -> np.ndarray:
    return rng.standard_normal((6, 9))


@pytest.fixture
def truth(x) -> np.ndarray:
    return orthogonalize(x)


@pytest.fixture
def t(torch, x):
    return torch.from_numpy(x.astype(np.float32))


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (1, 1), (2, 3, 4, 5), (0, 3, 4), (5, 0), (1,) * 9 + (3, 4)], ids=str)
def test_torch_in_torch_out(torch, rng, dtype, shape):
    t = torch.from_numpy(rng.standard_normal(shape)).to(getattr(torch, dtype))
    got = orthogonalize(t)
    assert type(got) is torch.Tensor
    assert got.dtype == t.dtype
    assert got.shape == t.shape
    assert got.device == t.device
    assert got.is_contiguous()
    assert not got.requires_grad
    values = t.to(torch.float64).numpy()
    numpy_dtype = BF16 if dtype == "bfloat16" else np.dtype(dtype)
    assert np.array_equal(got.to(torch.float64).numpy(), orthogonalize(values.astype(numpy_dtype)).astype(np.float64))
    out = torch.empty_like(t)
    assert orthogonalize(t, out=out) is out
    assert torch.equal(out, got)
    assert orthogonalize(t, out=t) is t
    assert torch.equal(t, got)


def test_torch_layouts(torch, rng):
    base = torch.from_numpy(rng.standard_normal((12, 30, 2)))
    for view in (base[..., 0], base[..., 0].T, base[::3, 4:20, 1], base.permute(2, 0, 1), base[:1, :, 0].expand(5, 30)):
        got = orthogonalize(view)
        assert torch.allclose(got, orthogonalize(view.contiguous()), rtol=0, atol=1e-11)
    out = torch.zeros(30, 12, 2, dtype=torch.float64)[..., 1].T
    assert orthogonalize(base[..., 0], out=out) is out
    assert torch.equal(out, orthogonalize(base[..., 0]))


def test_a_torch_result_is_a_tensor_like_any_other(torch, t):
    got = orthogonalize(t)
    got.requires_grad_()
    (got * 2).sum().backward()
    assert got.grad is not None


@pytest.mark.parametrize("kind", ["tensor", "parameter", "result"])
def test_torch_requires_grad(torch, t, kind):
    leaf = t.clone().requires_grad_()
    given = {"tensor": leaf, "parameter": torch.nn.Parameter(t), "result": leaf * 2}[kind]
    for arguments in ((given, None), (t, given)):
        with pytest.raises(TypeError, match=r"requires grad.*raphson\.torch.*detach"):
            orthogonalize(arguments[0], out=arguments[1])
    assert torch.equal(orthogonalize(given.detach()), orthogonalize(given.detach().clone()))


def test_torch_parameters_that_need_no_grad_are_plain(torch, t):
    assert torch.equal(orthogonalize(torch.nn.Parameter(t, requires_grad=False)), orthogonalize(t))


def lazily_negated(torch, t) -> dict[str, Callable[[], object]]:
    z = torch.complex(t, t)

    def reloaded(tensor: object) -> object:
        file = io.BytesIO()
        torch.save(tensor, file)
        file.seek(0)
        return torch.load(file)

    def inference(make: Callable[[], object]) -> object:
        with torch.inference_mode():
            return make()

    return {
        "imaginary part of a conjugate": lambda: z.conj().imag,
        "one column of it": lambda: z.conj().imag[:, :1],
        "one element of it": lambda: z.conj().imag[:1, :1],
        "contiguous view": lambda: torch._neg_view(t),
        "transposed view": lambda: torch._neg_view(t).T,
        "large view": lambda: torch._neg_view(torch.ones(80, 80)),
        "reloaded imaginary part": lambda: reloaded(z.conj().imag),
        "imaginary part in inference mode": lambda: inference(lambda: torch.complex(t, t).conj().imag),
    }


CASES = [
    "imaginary part of a conjugate",
    "one column of it",
    "one element of it",
    "contiguous view",
    "transposed view",
    "large view",
    "reloaded imaginary part",
    "imaginary part in inference mode",
]


@pytest.mark.parametrize("case", CASES)
def test_torch_lazy_negation_is_never_ignored(torch, t, case):
    given = lazily_negated(torch, t)[case]()
    assert given.is_neg()
    with pytest.raises(TypeError, match=r"^orthogonalize: x is a lazily negated view.*resolve_neg"):
        orthogonalize(given)
    with pytest.raises(TypeError, match=r"^orthogonalize: out is a lazily negated view"):
        orthogonalize(torch.ones_like(given.resolve_neg()), out=given)
    assert torch.isfinite(orthogonalize(given.resolve_neg())).all()


def test_torch_views_that_are_not_negated_pass(torch, t):
    z = torch.complex(t, t)
    assert torch.allclose(orthogonalize(z.imag), orthogonalize(t), atol=1e-6)
    assert torch.allclose(orthogonalize(z.conj().real), orthogonalize(t), atol=1e-6)
    with torch.inference_mode():
        assert torch.equal(orthogonalize(t.clone()), orthogonalize(t))


def not_plain(torch, t) -> dict[str, object]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            "conjugate": torch.complex(t, t).conj(),
            "complex": torch.complex(t, t),
            "sparse COO": t.to_sparse(),
            "sparse CSR": t.to_sparse_csr(),
            "meta": t.to("meta"),
            "quantized": torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
            "half": t.half(),
            "int": t.int(),
            "bool": t > 0,
            "float8": t.to(torch.float8_e4m3fn),
            "mkldnn": t.to_mkldnn(),
            "nested": torch.nested.nested_tensor([t, t]),
        }


@pytest.mark.parametrize(
    "case",
    [
        "conjugate",
        "complex",
        "sparse COO",
        "sparse CSR",
        "meta",
        "quantized",
        "half",
        "int",
        "bool",
        "float8",
        "mkldnn",
        "nested",
    ],
)
@pytest.mark.parametrize("argument", ["x", "out"])
def test_torch_tensors_that_are_no_plain_memory(torch, t, case, argument):
    if case == "mkldnn" and not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no mkldnn")
    arguments = {"x": t, argument: not_plain(torch, t)[case]}
    with pytest.raises(TypeError, match=rf"^orthogonalize: {argument} ") as error:
        orthogonalize(arguments.pop("x"), **arguments)
    assert "\n" not in str(error.value)  # torch's own messages carry a C++ stack


def test_torch_fake_and_wrapper_tensors(torch, t):
    from torch._subclasses.fake_tensor import FakeTensorMode

    class Wrapper(torch.Tensor):
        @classmethod
        def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
            return function(*args, **(kwargs or {}))

    with FakeTensorMode() as mode:
        inside = torch.randn(5, 7)
        with pytest.raises(TypeError, match=r"^orthogonalize: x "):
            orthogonalize(inside)
    wrapper = torch.Tensor._make_wrapper_subclass(Wrapper, (5, 7))
    for given in (inside, mode.from_tensor(t), wrapper):
        with pytest.raises(TypeError, match=r"^orthogonalize: x .*__torch_dispatch__"):
            orthogonalize(given)
        with pytest.raises(TypeError, match=r"^orthogonalize: out "):
            orthogonalize(t, out=given)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch warns of its own parts
def test_torch_function_transforms(torch, t):
    calls = {
        "vmap": lambda: torch.func.vmap(orthogonalize)(torch.stack([t, t])),
        "grad": lambda: torch.func.grad(lambda y: orthogonalize(y).sum())(t),
        "jvp": lambda: torch.func.jvp(orthogonalize, (t,), (t,)),
        "functionalize": lambda: torch.func.functionalize(orthogonalize)(t),
    }
    for name, call in calls.items():
        with pytest.raises(TypeError, match=r"^orthogonalize: x ") as error:
            call()
        assert "\n" not in str(error.value), name


def test_torch_subclasses_are_tensors(torch, t):
    class Plain(torch.Tensor):
        pass

    class Counting(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            return super().__torch_function__(function, types, args, kwargs or {})

    class Hiding(torch.Tensor):
        """Shadows what the bridge asks for; torch's own __dlpack__ has the last word then."""

        requires_grad = False

    for kind in (Plain, Counting, Hiding):
        got = orthogonalize(t.as_subclass(kind))
        assert isinstance(got, torch.Tensor)
        assert torch.equal(torch.Tensor(got), orthogonalize(t))
    lazy = torch._neg_view(t).as_subclass(Plain)
    with pytest.raises(TypeError, match="lazily negated"):
        orthogonalize(lazy)


def test_torch_results_do_not_follow_the_default_device(torch, t):
    with torch.device("meta"):
        got = orthogonalize(t)
    assert got.device.type == "cpu"
    assert torch.equal(got, orthogonalize(t))


def test_torch_expanded_tensors_are_no_output(torch, t):
    shared = t[:1].clone().expand(6, 9)
    for given in (t, shared):
        with pytest.raises(ValueError, match=r"^orthogonalize: out has elements that share memory"):
            orthogonalize(given, out=shared)


def test_torch_overlap(torch, rng):
    buffer = torch.from_numpy(rng.standard_normal((16, 16)))
    before = buffer.clone()
    for given, out in ((buffer[:, :8], buffer[:, 4:12]), (buffer, buffer.T)):
        with pytest.raises(ValueError, match="overlaps x"):
            orthogonalize(given, out=out)
    assert torch.equal(buffer, before)
    out = buffer[:, 8:]
    assert orthogonalize(buffer[:, :8], out=out) is out
    assert torch.equal(buffer[:, 8:], orthogonalize(before[:, :8]))
