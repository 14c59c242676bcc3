"""raphson.jax.muon against raphson.torch.Muon, which has a truth of its own, and by optax's rules."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

SHAPES = {"w": (8, 5), "tall": (5, 8), "experts": (3, 4, 6), "conv": (6, 3, 2, 2), "bias": (7,), "none": (0, 4)}


@pytest.fixture(scope="module")
def rj(jax):
    return importlib.import_module("raphson.jax")


@pytest.fixture(scope="module")
def optax(jax):
    return pytest.importorskip("optax")


def numbers(rng, scale=1.0):
    return {k: (scale * rng.standard_normal(shape)).astype(np.float32) for k, shape in SHAPES.items()}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"momentum": 0.8, "nesterov": False, "weight_decay": 0.0},
        {"variant": "turbo", "precision": "float32"},
        {"variant": "turbo", "schedule": "muon"},
        {"variant": "root"},
        {"variant": "auon"},
        {"schedule": "cans", "adjust_lr_fn": "match_rms_adamw", "precision": None},
        {"schedule": [[1.5, -0.5, 0.0]] * 4, "ns_steps": 7},
        {"ns_coefficients": (2.0, -1.5, 0.5), "ns_steps": 3, "eps": 1e-3},
    ],
    ids=str,
)
def test_the_same_parameters_as_torch(jax, rj, rng, settings):
    torch = pytest.importorskip("torch")
    optimizers = pytest.importorskip("raphson.torch")
    start = numbers(rng)
    theirs = {k: torch.nn.Parameter(torch.tensor(v)) for k, v in start.items()}
    optimizer = optimizers.Muon(list(theirs.values()), lr=0.05, aux="adamw", **settings)
    params = {k: jax.numpy.asarray(v) for k, v in start.items()}
    transform = rj.muon(0.05, aux="adamw", layout="out_in", **settings)
    state, update = transform.init(params), jax.jit(transform.update)
    for step in range(4):
        gradients = numbers(rng, 1e-9 if step == 3 else 1.0)  # the last below eps where that is 1e-3
        changes, state = update(gradients, state, params)
        params = {k: params[k] + changes[k] for k in params}
        for k, parameter in theirs.items():
            parameter.grad = torch.tensor(gradients[k])
        optimizer.step()
        for k, parameter in theirs.items():
            assert np.allclose(params[k], parameter.detach().numpy(), rtol=0, atol=4e-6), (step, k)
    assert int(state.count) == 4


def test_a_vanishing_gradient_fades_out(jax, rj, rng):
    """Below ``eps`` the update shrinks with the gradient, instead of being as long as any."""
    x = rng.standard_normal((4, 6)).astype(np.float32)
    x /= np.linalg.norm(x)
    transform = rj.muon(1.0, weight_decay=0.0, momentum=0.0, eps=1e-3, precision="float32", layout="out_in")
    state = transform.init(x)
    sizes = [np.linalg.norm(transform.update(scale * x, state)[0]) for scale in (1.0, 1e-3, 1e-6, 1e-8, 0.0)]
    assert sizes[0] > 0.9 * sizes[1] > 0.8 * sizes[0]
    assert sizes[2] < 0.9 * sizes[1]
    assert 80 < sizes[2] / sizes[3] < 120
    assert sizes[4] == 0


def test_layouts(jax, rj, rng):
    gradient = rng.standard_normal((3, 12)).astype(np.float32)
    settings = {"weight_decay": 0.0, "momentum": 0.0, "precision": "float32"}
    inwards, outwards = (rj.muon(1.0, layout=layout, **settings) for layout in ("in_out", "out_in"))
    one = inwards.update(gradient, inwards.init(gradient))[0]
    other = outwards.update(gradient.T, outwards.init(gradient.T))[0]
    assert np.allclose(one, other.T, atol=1e-6)  # √(12/3) each: 3 inputs, 12 outputs
    assert np.allclose(one, 2 * outwards.update(gradient, outwards.init(gradient))[0], atol=1e-6)
    kernel = rng.standard_normal((2, 2, 3, 8)).astype(np.float32)  # height, width, inputs, outputs
    flat = inwards.update(kernel.reshape(12, 8), inwards.init(kernel.reshape(12, 8)))[0]
    assert np.array_equal(inwards.update(kernel, inwards.init(kernel))[0].reshape(12, 8), flat)


def test_dtypes_and_one_dispatch(jax, rj, rng):
    params = {k: jax.numpy.asarray(rng.standard_normal((4, 6)), k) for k in ("float32", "bfloat16", "float16")}
    transform = rj.muon()
    state = transform.init(params)
    changes, state = jax.jit(transform.update)(params, state, params)
    for k, change in changes.items():
        assert change.dtype == k
        assert state.momentum[k].dtype == k
        assert np.isfinite(change.astype(np.float32)).all()
    many = [jax.numpy.ones((3, 4))] * 20
    program = jax.jit(transform.update).lower(many, transform.init(many), many).as_text()
    assert program.count("custom_call @raphson_call") == 1


def test_in_a_chain_with_a_schedule(jax, rj, optax, rng):
    params = {"w": rng.standard_normal((6, 4)).astype(np.float32), "b": np.zeros(4, np.float32)}
    target = rng.standard_normal((32, 4)).astype(np.float32)
    data = rng.standard_normal((32, 6)).astype(np.float32)
    transform = optax.chain(
        optax.clip_by_global_norm(10.0), rj.muon(optax.cosine_decay_schedule(0.1, 200), weight_decay=0.0, aux="adamw")
    )

    def loss(p):
        return ((data @ p["w"] + p["b"] - target) ** 2).mean()

    @jax.jit
    def step(p, state):
        changes, state = transform.update(jax.grad(loss)(p), state, p)
        return optax.apply_updates(p, changes), state

    state = transform.init(params)
    for _ in range(200):
        params, state = step(params, state)
    design = np.c_[data, np.ones(32)]
    best = np.mean((design @ np.linalg.lstsq(design, target, rcond=None)[0] - target) ** 2)
    assert float(loss(params)) < 1.01 * best
    two = optax.multi_transform({"m": rj.muon(), "a": optax.adam(1e-3)}, {"w": "m", "b": "a"})
    changes, _ = two.update(params, two.init(params), params)
    assert changes["b"].shape == (4,)


def test_the_rate_may_depend_on_the_step(jax, rj, rng):
    x = rng.standard_normal((3, 4)).astype(np.float32)
    transform = rj.muon(lambda count: 1.0 / (1 + count), weight_decay=0.0, momentum=0.0)
    state, sizes = transform.init(x), []
    for _ in range(3):
        change, state = jax.jit(transform.update)(x, state)
        sizes.append(float(np.abs(change).max()))
    assert np.allclose(sizes, sizes[0] / np.arange(1, 4), rtol=1e-6)


def test_nan_stays_with_its_parameter(jax, rj, rng):
    gradients = {k: rng.standard_normal((3, 4)).astype(np.float32) for k in "ab"}
    gradients["b"][0, 0] = np.nan
    for variant in ("muon", "root", "auon", "turbo"):
        transform = rj.muon(variant=variant, weight_decay=0.0)
        changes, _ = jax.jit(transform.update)(gradients, transform.init(gradients))
        assert np.isfinite(changes["a"]).all()
        assert np.isnan(changes["b"]).any()


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"momentum": -0.1}, "momentum"),
        ({"ns_steps": -1}, "ns_steps"),
        ({"ns_coefficients": (1.0, 2.0)}, "ns_coefficients"),
        ({"schedule": "nobody"}, "nobody"),
        ({"variant": "adamw"}, "variant"),
        ({"precision": "int8"}, "precision"),
        ({"adjust_lr_fn": "x"}, "adjust_lr_fn"),
        ({"aux": "x"}, "aux"),
        ({"layout": "x"}, "layout"),
        ({"adamw_betas": (0.9, 1.0)}, "adamw_betas"),
    ],
)
def test_settings_out_of_range(rj, settings, text):
    with pytest.raises(ValueError, match=text):
        rj.muon(**settings)


def test_parameters_that_cannot_be(jax, rj):
    with pytest.raises(ValueError, match=r"parameter \['b'\] has shape \(3,\)"):
        rj.muon().init({"b": np.zeros(3, np.float32)})
    with pytest.raises(TypeError, match=r"parameter \['n'\] has dtype int32"):
        rj.muon().init({"n": np.zeros((3, 3), np.int32)})
    x = np.ones((2, 2), np.float32)
    with pytest.raises(ValueError, match="weight_decay needs the parameters"):
        rj.muon().update(x, rj.muon().init(x))
