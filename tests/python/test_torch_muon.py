"""raphson.torch.Muon beside torch.optim.Muon: the same steps and losses, and what torch's does not do."""

from __future__ import annotations

import copy
import inspect
import math

import numpy as np
import pytest

from muon_reference import SHAPES, bits, gradients, iterate, parameters, relative, run


@pytest.fixture
def Muon(torch):
    from raphson.torch import Muon

    return Muon


@pytest.fixture
def at_precision(torch, monkeypatch):
    """Has torch.optim.Muon iterate in another dtype than bfloat16."""

    def change(dtype: str) -> None:
        monkeypatch.setattr(
            torch.optim._muon,
            "_zeropower_via_newtonschulz",
            lambda g, coefficients, steps, eps: iterate(torch, g.to(getattr(torch, dtype)), coefficients, steps, eps),
        )

    return change


def test_the_signature_is_torchs(torch, Muon):
    ours = inspect.signature(Muon).parameters
    theirs = inspect.signature(torch.optim.Muon).parameters
    assert list(ours)[: len(theirs)] == list(theirs)
    assert {k: ours[k].default for k in theirs} == {k: p.default for k, p in theirs.items()}
    assert {k: p.default for k, p in ours.items() if k not in theirs} == {
        "schedule": None,
        "variant": "muon",
        "precision": "bfloat16",
        "aux": "error",
        "comm": None,
    }
    assert issubclass(Muon, torch.optim.Optimizer)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"nesterov": False},
        {"adjust_lr_fn": "original"},
        {"adjust_lr_fn": "match_rms_adamw", "lr": 0.3},
        {"weight_decay": 0.0, "momentum": 0.0},
        {"momentum": 0.5, "ns_coefficients": (1.5, -0.5, 0.0), "ns_steps": 7},
        {"ns_steps": 0},
        {"eps": 30.0},  # larger than some norms: they are not divided by their own
    ],
    ids=str,
)
def test_steps_are_torchs_in_float64(torch, Muon, at_precision, settings):
    at_precision("float64")
    settings = {"lr": 0.02, **settings}
    a, b = parameters(torch, SHAPES), parameters(torch, SHAPES)
    ours, theirs = Muon(a, precision="float64", **settings), torch.optim.Muon(b, **settings)
    for seed in range(3):
        gradients(torch, a, seed)
        gradients(torch, b, seed)
        ours.step()
        theirs.step()
    for p, q in zip(a, b, strict=True):
        assert relative(p.detach(), q.detach()) < 1e-12
        assert list(ours.state[p]) == list(theirs.state[q]) == ["momentum_buffer"]
        assert bits(ours.state[p]["momentum_buffer"]) == bits(theirs.state[q]["momentum_buffer"])


@pytest.mark.parametrize("size", [1e-6, 1e-8, 1e-10, 1e-13, 0.0])
def test_vanishing_gradients_fade_out_as_torchs(torch, Muon, at_precision, size):
    at_precision("float64")
    settings = {"lr": 1.0, "weight_decay": 0.0}
    shapes = [(4, 6), (6, 4)]
    a, b = parameters(torch, shapes), parameters(torch, shapes)
    for p, q in zip(a, b, strict=True):
        with torch.no_grad():
            p.zero_(), q.zero_(), p.grad.mul_(size), q.grad.mul_(size)
            p.grad[0] = q.grad[0] = 0  # the first row says nothing
    Muon(a, precision="float64", **settings).step()
    torch.optim.Muon(b, **settings).step()
    for p, q in zip(a, b, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-16)
    single = parameters(torch, [(2, 4, 6)])[0]  # one matrix of a batch vanishes
    with torch.no_grad():
        single.zero_()
        single.grad[0] = 2 * torch.eye(4, 6, dtype=torch.float64)
        single.grad[1] = b[0].grad
    Muon([single], precision="float64", **settings).step()
    torch.testing.assert_close(single[1], b[0], rtol=1e-10, atol=1e-16)
    assert float(single[0].detach().norm()) > 1


@pytest.fixture
def one_thread(torch, threads):
    """Matrices this small gain nothing from more, and waiting for each other costs much on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    threads(1)
    yield
    torch.set_num_threads(before)


def mlp(torch):
    model = torch.nn.Sequential(
        torch.nn.Linear(24, 48, bias=False), torch.nn.ReLU(),
        torch.nn.Linear(48, 48, bias=False), torch.nn.ReLU(),
        torch.nn.Linear(48, 12, bias=False),
    )  # fmt: skip
    return model, lambda x: model(x)


def transformer(torch):
    width, heads = 24, 3
    block = torch.nn.ModuleDict(
        {
            name: torch.nn.Linear(rows, cols, bias=False)
            for name, rows, cols in [
                ("q", width, width), ("k", width, width), ("v", width, width), ("o", width, width),
                ("up", width, 4 * width), ("down", 4 * width, width), ("head", width, 12),
            ]
        }
    )  # fmt: skip

    def forward(x):  # (tokens, width)
        q, k, v = (block[n](x).view(8, -1, heads, width // heads).transpose(1, 2) for n in "qkv")
        mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + block["o"](mixed.transpose(1, 2).reshape(x.shape))
        x = x + block["down"](torch.nn.functional.gelu(block["up"](torch.nn.functional.rms_norm(x, (width,)))))
        return block["head"](x)

    return block, forward


def losses(torch, build, make, steps=30):
    torch.manual_seed(3)
    model, forward = build(torch)
    x, rule = torch.randn(96, 24), torch.randn(24, 12)
    labels = (x @ rule).argmax(1)
    optimizer = make(model.parameters())
    found = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(forward(x), labels)
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return np.array(found)


def apart(a, b):
    """Largest difference of two loss curves, relative to where they start."""
    return np.abs(a - b).max() / b[0]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("build", [mlp, transformer])
def test_training_follows_torchs(torch, Muon, at_precision, build):
    settings = {"lr": 0.02, "weight_decay": 0.01}
    theirs = losses(torch, build, lambda p: torch.optim.Muon(p, **settings))
    ours = losses(torch, build, lambda p: Muon(p, **settings))
    other = losses(torch, build, lambda p: Muon(p, schedule="polar_express", **settings))
    at_precision("float32")
    theirs32 = losses(torch, build, lambda p: torch.optim.Muon(p, **settings))
    ours32 = losses(torch, build, lambda p: Muon(p, precision="float32", **settings))
    assert theirs[-1] < 0.6 * theirs[0]
    noise = apart(theirs, theirs32)  # what bfloat16 does to torch's own losses
    assert apart(ours, theirs) < max(2 * noise, 1e-3)
    assert apart(ours32, theirs32) < 1e-5
    assert apart(other, theirs) > 5 * apart(ours, theirs)  # another schedule is seen


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_parameter_dtypes(torch, Muon, dtype):
    shapes = [(16, 24), (24, 16), (16, 16)]
    a, b = parameters(torch, shapes, dtype), parameters(torch, shapes, dtype)
    starts = [p.detach().clone() for p in a]
    settings = {"lr": 1.0, "weight_decay": 0.0}
    ours, theirs = Muon(a, **settings), torch.optim.Muon(b, **settings)
    run(torch, ours, a, 2)
    run(torch, theirs, b, 2)
    for p, q, start in zip(a, b, starts, strict=True):
        assert p.dtype == ours.state[p]["momentum_buffer"].dtype == getattr(torch, dtype)
        assert relative(p.detach() - start, q.detach() - start) < 0.05  # agreement.GAUSSIAN["bfloat16"]


def test_one_call_for_all_matrices_of_a_dtype(torch, Muon, monkeypatch):
    from raphson import newton_schulz

    calls = []
    whole = newton_schulz.orthogonalize_many
    monkeypatch.setattr(
        newton_schulz, "orthogonalize_many", lambda xs, **k: (calls.append((len(xs), k)), whole(xs, **k))[1]
    )
    params = parameters(torch, SHAPES, "float32")
    groups = [{"params": params[:3]}, {"params": params[3:], "lr": 0.5, "momentum": 0.1}]
    Muon(groups).step()
    assert [count for count, _ in calls] == [len(SHAPES)]
    assert calls[0][1]["precision"] == "bfloat16"
    calls.clear()
    mixed = [*parameters(torch, SHAPES, "float32"), *parameters(torch, SHAPES, "float64")]
    alone = [copy.deepcopy(p) for p in mixed]
    for p, q in zip(mixed, alone, strict=True):
        q.grad = p.grad.clone()
    Muon(mixed, precision=None).step()
    assert [count for count, _ in calls] == [len(SHAPES)] * 2
    for p, q in zip(mixed, alone, strict=True):
        Muon([q], precision=None).step()
        assert torch.equal(p, q)


def test_convolutions_and_batches(torch, Muon):
    conv, batch, cube = parameters(torch, [(6, 3, 2, 5), (4, 6, 9), (5, 2, 3, 2, 2)])
    flat = [torch.nn.Parameter(p.detach().flatten(1).clone()) for p in (conv, cube)]
    flat[0].grad, flat[1].grad = conv.grad.flatten(1).clone(), cube.grad.flatten(1).clone()
    slices = [torch.nn.Parameter(m.clone()) for m in batch.detach()]
    for m, g in zip(slices, batch.grad, strict=True):
        m.grad = g.clone()
    last = torch.nn.Parameter(conv.detach().clone(memory_format=torch.channels_last))
    last.grad = conv.grad.clone(memory_format=torch.channels_last)
    for group in ([conv, batch, cube, last], [*flat, *slices]):
        Muon(group, lr=0.1, precision="float64", adjust_lr_fn="match_rms_adamw").step()
    assert torch.equal(conv.flatten(1), flat[0])
    assert torch.equal(cube.flatten(1), flat[1])
    assert torch.equal(batch, torch.stack(slices))
    assert torch.equal(last, conv)
    assert last.is_contiguous(memory_format=torch.channels_last)


def test_layouts_do_not_matter(torch, Muon):
    (plain,) = parameters(torch, [(6, 8)])
    strided = torch.nn.Parameter(torch.zeros(8, 12, dtype=torch.float64).T[::2].copy_(plain.detach()))
    strided.grad = torch.zeros(6, 16, dtype=torch.float64)[:, ::2].copy_(plain.grad)
    spread = torch.nn.Parameter(plain.detach().clone())  # a gradient whose rows are one row
    spread.grad = plain.grad[:1].expand(6, 8)
    dense = torch.nn.Parameter(plain.detach().clone())
    dense.grad = spread.grad.contiguous()
    for p in (plain, strided, spread, dense):
        optimizer = Muon([p], lr=0.1, precision="float64")
        optimizer.step()
        optimizer.step()
    assert not strided.is_contiguous()
    torch.testing.assert_close(strided.detach(), plain.detach(), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(spread.detach(), dense.detach(), rtol=1e-13, atol=1e-13)


def test_missing_gradients_and_empty_parameters(torch, Muon):
    a, b, c, d = parameters(torch, [(4, 4), (3, 5), (0, 4), (0, 2, 3)])
    b.grad = None
    before = b.detach().clone()
    optimizer = Muon([a, b, c, d])
    optimizer.step()
    assert torch.equal(b, before)
    assert b not in optimizer.state
    for p in (a, c, d):
        p.grad = None
    optimizer.step()  # nothing to do at all


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_rest_by_adamw(torch, Muon, dtype):
    shapes = [(6,), (), (3, 4), (2, 3, 4)]
    a, b = parameters(torch, shapes, dtype), parameters(torch, shapes, dtype)
    ours = Muon(
        [{"params": a[:2]}, {"params": a[2:], "variant": "adamw", "adamw_betas": (0.8, 0.9), "adamw_eps": 1e-6}],
        aux="adamw", lr=0.01, weight_decay=0.2,
    )  # fmt: skip
    theirs = torch.optim.AdamW(
        [{"params": b[:2]}, {"params": b[2:], "betas": (0.8, 0.9), "eps": 1e-6}], lr=0.01, weight_decay=0.2
    )
    run(torch, ours, a, 4)
    run(torch, theirs, b, 4)
    for p, q in zip(a, b, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)
        assert set(ours.state[p]) == set(theirs.state[q])
        assert float(ours.state[p]["step"]) == 4


def test_groups_closure_and_schedulers(torch, Muon, at_precision):
    at_precision("float64")
    outcome = []
    for make in (lambda p: Muon(p, lr=0.1, precision="float64"), lambda p: torch.optim.Muon(p, lr=0.1)):
        params = parameters(torch, [(4, 6), (6, 4), (5, 5)], grads=False)
        optimizer = make([{"params": params[:1]}, {"params": params[1:2], "lr": 0.3, "nesterov": False, "ns_steps": 3}])
        optimizer.add_param_group({"params": params[2:], "weight_decay": 0.5, "adjust_lr_fn": "match_rms_adamw"})
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1 / (1 + epoch))

        def closure(optimizer=optimizer, params=params):
            optimizer.zero_grad()
            loss = sum(p.square().sum() + p.exp().sum() for p in params)
            loss.backward()
            return loss

        found = []
        for _ in range(4):
            found.append(optimizer.step(closure).item())
            scheduler.step()
        outcome.append(found)
    np.testing.assert_allclose(outcome[0], outcome[1], rtol=1e-12)


def moved(torch, Muon, **settings):
    """What one step takes off (8, 12) and (12, 8) parameters, and the gradients, which are the momentum up to scale."""
    params = parameters(torch, [(8, 12), (12, 8)])
    starts = [p.detach().clone() for p in params]
    Muon(params, lr=1.0, weight_decay=0.0, momentum=0.0, **{"precision": "float64", **settings}).step()
    ratio = [1.0, math.sqrt(1.5)]
    return [((s - p.detach()) / r, p.grad) for s, p, r in zip(starts, params, ratio, strict=True)]


def test_schedules_and_variants(torch, Muon):
    from raphson import newton_schulz

    table = newton_schulz.schedule("polar_express", steps=3)
    expected = {
        "muon": ({}, lambda g: newton_schulz.orthogonalize(g, schedule="muon")),
        "by name": ({"schedule": "cubic"}, lambda g: newton_schulz.orthogonalize(g, schedule="cubic")),
        "by table": ({"schedule": table}, lambda g: newton_schulz.orthogonalize(g, schedule=table)),
        "turbo": ({"variant": "turbo"}, lambda g: newton_schulz.orthogonalize(g, schedule="turbo")),
        "turbo, other table": (
            {"variant": "turbo", "schedule": "you"},
            lambda g: newton_schulz.orthogonalize(g, schedule="you", normalize="aol"),
        ),
        "root": (
            {"variant": "root"},
            lambda g: newton_schulz.orthogonalize(newton_schulz.soft_clip(g, quantile=0.9)[0], schedule="root"),
        ),
        "auon": ({"variant": "auon"}, lambda g: newton_schulz.auon(g)),
        "float32": (
            {"precision": "float32"},
            lambda g: newton_schulz.orthogonalize(g, schedule="muon", precision="float32"),
        ),
    }
    found = {}
    needs = {"root": "soft_clip", "auon": "auon"}
    for name, (settings, truth) in expected.items():
        if name in needs and not hasattr(newton_schulz, needs[name]):
            continue
        pairs = moved(torch, Muon, **settings)
        for update, grad in pairs:
            assert relative(update, truth(grad)) < 1e-13, name
        found[name] = pairs[0][0]
    names = list(found)
    for i, name in enumerate(names):
        for other in names[:i]:
            assert relative(found[name], found[other]) > 1e-9, (name, other)
