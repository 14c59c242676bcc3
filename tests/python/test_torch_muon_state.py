"""raphson.torch.Muon: misuse, bad gradients, state_dict, checkpoints and copies."""

from __future__ import annotations

import copy
import io
import math
import pickle
import warnings

import numpy as np
import pytest

from muon_reference import SHAPES, gradients, parameters, relative, run


@pytest.fixture
def Muon(torch):
    from raphson.torch import Muon

    return Muon


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("variant", ["muon", "root", "turbo"])
def test_nan_raises_and_changes_nothing(torch, Muon, bad, variant):
    params = dict(zip(["a", "b", "c", "bias"], parameters(torch, [(4, 4), (3, 5), (3, 5), (3,)]), strict=True))
    optimizer = Muon(params.items(), aux="adamw", variant=variant)
    run(torch, optimizer, list(params.values()), 2)
    gradients(torch, params.values(), 5)
    params["b"].grad[1, 2] = bad
    weights, state = copy.deepcopy(params), copy.deepcopy(optimizer.state_dict()["state"])
    with pytest.raises(ValueError, match=r"parameter 'b', shape \(3, 5\), contains NaN or Inf"):
        optimizer.step()
    for name, p in params.items():
        assert torch.equal(p, weights[name])
    after = optimizer.state_dict()["state"]
    assert all(torch.equal(after[i][k], v) for i, s in state.items() for k, v in s.items())


def test_gradients_that_are_not_taken(torch, Muon):
    (p, q) = parameters(torch, [(4, 4), (4, 4)])
    before = q.detach().clone()
    p.grad = p.grad.to_sparse()
    optimizer = Muon([q, p])
    with pytest.raises(RuntimeError, match="parameter 1 of group 0 is sparse"):
        optimizer.step()
    z = torch.nn.Parameter(torch.zeros(2, 2, dtype=torch.complex64))
    z.grad = torch.zeros_like(z)
    with pytest.raises(RuntimeError, match="complex"):
        Muon([q, z]).step()
    assert torch.equal(q, before)
    assert not optimizer.state


@pytest.mark.parametrize(
    "wrong",
    [
        {"lr": -1.0},
        {"lr": math.nan},
        {"momentum": -0.1},
        {"weight_decay": -0.1},
        {"eps": -1e-7},
        {"ns_steps": 100},
        {"ns_steps": -1},
        {"ns_coefficients": (1.5, -0.5)},
        {"adjust_lr_fn": "rms"},
        {"schedule": "newton"},
        {"schedule": [1.0, 2.0, 3.0]},
        {"variant": "shampoo"},
        {"precision": "float16"},
        {"aux": "sgd"},
        {"comm": object()},
        {"adamw_betas": (0.9, 1.0)},
    ],
    ids=str,
)
def test_arguments_out_of_range(torch, Muon, wrong):
    params = parameters(torch, [(3, 4), (2, 2)])
    if "adamw_betas" not in wrong:
        with pytest.raises(ValueError, match=next(iter(wrong)).split("_")[0]):
            Muon(params, **wrong)
    if "comm" not in wrong:
        optimizer = Muon(params[:1])
        with pytest.raises(ValueError, match=next(iter(wrong)).split("_")[0]):
            optimizer.add_param_group({"params": params[1:], **wrong})
        assert len(optimizer.param_groups) == 1
        optimizer.param_groups[0].update(wrong)
        if not isinstance(wrong.get("schedule"), list):
            with pytest.raises(ValueError, match=next(iter(wrong)).split("_")[0]):
                optimizer.step()


@pytest.mark.parametrize("key", ["lr", "momentum", "weight_decay"])
@pytest.mark.parametrize("value", [-1.0, -1e-300, -math.inf, math.nan, -0.0, 0.0, 1.0, 1.5, math.inf])
def test_ranges_are_torchs(torch, Muon, key, value):
    params = parameters(torch, [(3, 4)])
    try:
        torch.optim.Muon(params, **{key: value})
    except ValueError:
        with pytest.raises(ValueError, match=rf"{key} must be at least 0"):
            Muon(params, **{key: value})
    else:
        assert Muon(params, **{key: value}).param_groups[0][key] == value


def test_what_is_no_matrix(torch, Muon):
    weight, bias, scale = parameters(torch, [(3, 4), (3,), ()])
    for other in (bias, scale):
        with pytest.raises(ValueError, match="aux='adamw'"):
            Muon([weight, other])
    optimizer = Muon([weight])
    with pytest.raises(ValueError, match="parameter 0 of group 1"):
        optimizer.add_param_group({"params": [bias]})
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({"params": [bias, scale], "aux": "adamw"})
    optimizer.step()
    with pytest.raises(ValueError, match="one element"):
        Muon([weight], lr=torch.tensor([1.0, 2.0]))


def test_one_cycle_moves_rate_and_momentum(torch, Muon):
    params = parameters(torch, [(3, 4)])
    optimizer = Muon(params, lr=torch.tensor(0.1), aux="adamw")
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=6)
    seen = set()
    for _ in range(5):
        optimizer.step()
        scheduler.step()
        seen.add((float(optimizer.param_groups[0]["lr"]), optimizer.param_groups[0]["momentum"]))
    assert len(seen) >= 4
    assert len({m for _, m in seen}) >= 4


def through_file(torch, state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("table", [None, "polar_express", [[1.5, -0.5, 0.0], [2.0, -1.5, 0.5]]], ids=str)
def test_state_dict_continues_bit_for_bit(torch, Muon, table):
    shapes = [(4, 6), (3, 2, 2, 2), (2, 3, 4), (5,)]
    for dtype in ("float32", "bfloat16"):
        params = parameters(torch, shapes, dtype)
        table_ = None if table is None else table if isinstance(table, str) else np.array(table)
        optimizer = Muon([{"params": params[:2]}, {"params": params[2:], "lr": 0.3}], aux="adamw", schedule=table_)
        run(torch, optimizer, params, 3)
        state = through_file(torch, optimizer.state_dict())
        twins = copy.deepcopy(params)
        fresh = Muon([{"params": twins[:2]}, {"params": twins[2:]}], aux="adamw", lr=77.0)
        fresh.load_state_dict(state)
        again = fresh.state_dict()
        assert again["param_groups"] == optimizer.state_dict()["param_groups"]
        for index, entries in optimizer.state_dict()["state"].items():
            for key, value in entries.items():
                assert again["state"][index][key].dtype == value.dtype
                assert torch.equal(again["state"][index][key], value)
        run(torch, optimizer, params, 3, first=50)
        run(torch, fresh, twins, 3, first=50)
        assert all(torch.equal(p, q) for p, q in zip(params, twins, strict=True))


def test_checkpoints_of_torchs_muon_load_and_back(torch, Muon):
    a = parameters(torch, SHAPES, "float32")
    theirs = torch.optim.Muon(a, lr=0.3, ns_steps=3)
    run(torch, theirs, a, 2)
    b, c = copy.deepcopy(a), copy.deepcopy(a)
    ours, back = Muon(b, precision="float64"), torch.optim.Muon(c)
    ours.load_state_dict(through_file(torch, theirs.state_dict()))
    assert ours.param_groups[0]["precision"] == "bfloat16"
    assert (ours.param_groups[0]["lr"], ours.param_groups[0]["ns_steps"]) == (0.3, 3)
    back.load_state_dict(through_file(torch, ours.state_dict()))
    for optimizer, params in ((theirs, a), (ours, b), (back, c)):
        run(torch, optimizer, params, 1, first=50)
    for p, q, r in zip(a, b, c, strict=True):
        assert relative(q.detach(), p.detach()) < 0.05
        assert torch.equal(p, r)


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies_continue_alike(torch, Muon, how):
    model = torch.nn.Linear(5, 4, dtype=torch.float64)
    optimizer = Muon(model.named_parameters(), aux="adamw", precision="float64", variant="turbo", schedule="you")
    run(torch, optimizer, list(model.parameters()), 2)
    pair = (model, optimizer)
    twin, copied = copy.deepcopy(pair) if how == "deepcopy" else pickle.loads(pickle.dumps(pair))
    assert optimizer.defaults.items() <= copied.defaults.items()
    run(torch, optimizer, list(model.parameters()), 2)
    run(torch, copied, list(twin.parameters()), 2)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q)
        assert p is not q
    assert "precision: float64" in repr(copied)


def test_hooks_and_inference(torch, Muon):
    params = parameters(torch, [(3, 4)])
    optimizer = Muon(params)
    seen = []
    optimizer.register_step_post_hook(lambda *_: seen.append(1))
    with torch.enable_grad():
        optimizer.step()
    assert seen == [1]
    assert params[0].requires_grad
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.zero_grad()
    assert params[0].grad is None
