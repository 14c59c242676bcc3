"""raphson.torch.MFAC against the update written out in float64, its state, and misuse."""

import copy
import io
import math

import numpy as np
import pytest


@pytest.fixture
def MFAC(torch):
    from raphson.torch import MFAC

    return MFAC


SHAPES = [(4, 3), (5,), (2, 2, 2)]


def parameters(torch, seed=0, dtype=None):
    generator = torch.Generator().manual_seed(seed)
    dtype = dtype or torch.float32
    return [torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in SHAPES]


def give_gradients(torch, params, step):
    generator = torch.Generator().manual_seed(100 + step)
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator, dtype=p.dtype)


def truth(torch, steps, *, lr, momentum, weight_decay, ngrads, damp, dtype=None):
    """θ after some steps, from the formula: F as a matrix, in float64."""
    params = parameters(torch, dtype=dtype)
    theta = np.concatenate([p.detach().double().numpy().ravel() for p in params])
    window, v = [], np.zeros_like(theta)
    for step in range(steps):
        give_gradients(torch, params, step)
        g = np.concatenate([p.grad.double().numpy().ravel() for p in params]) + weight_decay * theta
        window = [*window, g][-ngrads:]
        fisher = damp * np.eye(len(g)) + sum(np.outer(h, h) for h in window) / ngrads
        u = np.linalg.solve(fisher, g)
        v = momentum * v + (1 - momentum) * u
        theta = theta - lr * (v if momentum else u)
    return theta


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("window_dtype", ["float32", "float64"])
def test_it_takes_the_steps_of_the_formula(torch, MFAC, momentum, weight_decay, window_dtype):
    settings = {"lr": 0.05, "momentum": momentum, "weight_decay": weight_decay, "ngrads": 4, "damp": 0.3}
    dtype = getattr(torch, window_dtype)
    params = parameters(torch, dtype=dtype)
    optimizer = MFAC(params, **settings, window_dtype=window_dtype)
    for step in range(9):
        give_gradients(torch, params, step)
        optimizer.step()
    got = np.concatenate([p.detach().double().numpy().ravel() for p in params])
    tolerance = 1e-12 if window_dtype == "float64" else 1e-5
    np.testing.assert_allclose(got, truth(torch, 9, **settings, dtype=dtype), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("window_dtype", ["bfloat16", "float16", "int8"])
def test_narrow_windows_are_near(torch, MFAC, window_dtype):
    settings = {"lr": 0.05, "momentum": 0.0, "weight_decay": 0.0, "ngrads": 4, "damp": 0.5}
    params = parameters(torch)
    optimizer = MFAC(params, **settings, window_dtype=window_dtype)
    for step in range(6):
        give_gradients(torch, params, step)
        optimizer.step()
    got = np.concatenate([p.detach().double().numpy().ravel() for p in params])
    np.testing.assert_allclose(got, truth(torch, 6, **settings), atol=0.02)


def test_it_trains(torch, MFAC):
    torch.manual_seed(0)
    x = torch.randn(256, 10)
    y = (x @ torch.randn(10, 3)).argmax(1)
    model = torch.nn.Sequential(torch.nn.Linear(10, 32), torch.nn.Tanh(), torch.nn.Linear(32, 3))
    optimizer = MFAC(model.parameters(), lr=1e-2, ngrads=32, damp=1e-2, momentum=0.5)

    def closure():
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        return loss

    first = closure().item()
    for _ in range(150):
        last = optimizer.step(closure).item()
    assert last < 0.3 * first


def test_groups_have_windows_of_their_own(torch, MFAC):
    together, apart = parameters(torch), parameters(torch)
    blocks = [{"params": [p]} for p in apart]
    alone = [MFAC([p], ngrads=3, damp=0.1) for p in together]
    grouped = MFAC(blocks, ngrads=3, damp=0.1)
    for step in range(5):
        give_gradients(torch, together, step)
        give_gradients(torch, apart, step)
        for optimizer in alone:
            optimizer.step()
        grouped.step()
    for p, q in zip(together, apart, strict=True):
        assert torch.equal(p, q)


def test_parameters_without_gradients_stay(torch, MFAC):
    params = parameters(torch)
    optimizer = MFAC(params, ngrads=3, damp=0.1)
    optimizer.step()  # none has one: nothing is stored
    assert len(optimizer._windows[0]) == 0
    give_gradients(torch, params, 0)
    params[1].grad = None
    before = params[1].detach().clone()
    optimizer.step()
    assert torch.equal(params[1], before)
    assert len(optimizer._windows[0]) == 1


def test_damping_may_change(torch, MFAC):
    params, others = parameters(torch), parameters(torch)
    changed, constant = MFAC(params, ngrads=4, damp=0.1), MFAC(others, ngrads=4, damp=0.7)
    changed.param_groups[0]["damp"] = 0.7
    for step in range(3):
        give_gradients(torch, params, step)
        give_gradients(torch, others, step)
        changed.step()
        constant.step()
    for p, q in zip(params, others, strict=True):
        torch.testing.assert_close(p, q)


@pytest.mark.parametrize("way", ["state_dict", "saved", "deepcopy"])
@pytest.mark.parametrize("window_dtype", ["float32", "bfloat16", "int8"])
def test_state_goes_on_bit_for_bit(torch, MFAC, way, window_dtype):
    params = parameters(torch)
    optimizer = MFAC(params, ngrads=4, damp=0.2, momentum=0.8, window_dtype=window_dtype)
    for step in range(6):
        give_gradients(torch, params, step)
        optimizer.step()
    if way == "deepcopy":
        optimizer, params = copy.deepcopy((optimizer, params))
        copies = optimizer.param_groups[0]["params"]
        again = None
    else:
        copies = [torch.nn.Parameter(p.detach().clone()) for p in params]
        again = MFAC(copies, ngrads=4, damp=0.2, momentum=0.8, window_dtype=window_dtype)
        state = copy.deepcopy(optimizer.state_dict())  # torch's load_state_dict keeps the buffers it is given
        if way == "saved":
            buffer = io.BytesIO()
            torch.save(state, buffer)
            buffer.seek(0)
            state = torch.load(buffer, weights_only=True)
        again.load_state_dict(state)
    for step in range(6, 9):
        give_gradients(torch, params, step)
        optimizer.step()
        if again is not None:
            give_gradients(torch, copies, step)
            again.step()
    for p, q in zip(params, copies, strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_raises_and_changes_nothing(torch, MFAC, bad):
    params = parameters(torch)
    optimizer = MFAC([{"params": params[:2]}, {"params": params[2:]}], ngrads=3, damp=0.1)
    give_gradients(torch, params, 0)
    optimizer.step()
    give_gradients(torch, params, 1)
    params[2].grad[0, 0, 0] = bad
    before = [p.detach().clone() for p in params]
    with pytest.raises(ValueError, match="NaN or Inf"):
        optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(params, before, strict=True))
    assert [len(window) for window in optimizer._windows] == [1, 1]


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"lr": -1.0}, "lr"),
        ({"momentum": 1.0}, "momentum"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"ngrads": 0}, "capacity"),
        ({"damp": 0.0}, "damping"),
        ({"window_dtype": "float8"}, "dtype"),
        ({"block_size": 0}, "block_size"),
    ],
)
def test_bad_settings(torch, MFAC, settings, match):
    with pytest.raises(ValueError, match=match):
        MFAC(parameters(torch), **settings)


def test_states_of_others_are_refused(torch, MFAC):
    optimizer = MFAC(parameters(torch), ngrads=3)
    with pytest.raises(ValueError, match="0 windows"):
        optimizer.load_state_dict(torch.optim.SGD(parameters(torch), lr=0.1).state_dict())
    with pytest.raises(ValueError, match="capacity"):
        optimizer.load_state_dict(MFAC(parameters(torch), ngrads=5).state_dict())
    with pytest.raises(ValueError, match="no entries"):
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.empty(0))]})
    assert len(optimizer.param_groups) == 1
