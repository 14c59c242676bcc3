"""Types of the compiled core; kept by hand, since its arguments are any array."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

class _BuildInfo(TypedDict):
    version: str
    isa: str
    isas: list[str]
    threads: int
    eigen: str

def _check_environment() -> None: ...
def build_info() -> _BuildInfo: ...
def get_num_threads() -> int: ...
def set_num_threads(count: int) -> None: ...
def orthogonalize(
    x: Any,
    schedule: Any,
    steps: int | None,
    normalize: str | None,
    method: str,
    precision: Any,
    eps: float,
    check_finite: bool | None,
    out: Any,
) -> Any: ...
def orthogonalize_many(
    arrays: list[Any],
    schedule: Any,
    steps: int | None,
    normalize: str | None,
    method: str,
    precision: Any,
    eps: float,
    check_finite: bool | None,
    out: Any,
) -> list[Any]: ...
def plan(
    rows: int,
    cols: int,
    dtype: str,
    schedule: Any,
    steps: int | None,
    normalize: str | None,
    method: str,
    precision: str | None,
) -> dict[str, Any]: ...
def soft_clip(x: Any, quantile: float) -> Any: ...
def auon(x: Any, gamma: float, hybrid_steps: int) -> Any: ...
def orthogonalize_vjp(
    x: Any,
    cotangent: Any,
    schedule: Any,
    steps: int | None,
    normalize: str | None,
    precision: Any,
    eps: float,
    check_finite: bool | None,
    out: Any,
) -> Any: ...
def matrix_function(
    function: str,
    arrays: Any,
    p: int,
    tol: float | None,
    max_steps: int,
    ridge: float,
    relative_ridge: float,
) -> list[dict[str, Any]]: ...
def matrix_function_vjp(
    function: str,
    value: Any,
    second: Any,
    value_bar: Any,
    second_bar: Any,
    p: int,
    relative_ridge: float,
) -> Any: ...
def schedule_names() -> list[str]: ...
def schedule(name: str, steps: int, rows: int, cols: int) -> npt.NDArray[np.float64]: ...
def minimax_schedule(
    lower: float, steps: int, degree: int, safety: float, cushion: float
) -> npt.NDArray[np.float64]: ...

class FisherInverse:
    def __init__(self, grads: Any, damping: float, block_size: int) -> None: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    def solve(self, x: Any) -> Any: ...
    def diagonal(self) -> npt.NDArray[np.float64]: ...
    def scores(
        self, w: npt.NDArray[np.float64], group: int
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]: ...
    def submatrix(self, rows: npt.NDArray[np.int64], cols: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]: ...
    def logdet(self) -> float: ...
    def remove(self, w: npt.NDArray[np.float64], kept: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]: ...
    def energy(self, change: npt.NDArray[np.float64]) -> float: ...

def gram(a: Any, function: str, argument: str) -> npt.NDArray[np.float64]: ...
def cross(a: Any, b: Any, function: str, name_a: str, name_b: str) -> npt.NDArray[np.float64]: ...
def combine_rows(rows: Any, coefficients: npt.NDArray[np.float64]) -> Any: ...
def rank_one_inverse(
    inverse: Any, v: npt.NDArray[np.float64], alpha: float, beta: float, weight: float, out: Any
) -> Any: ...

class GradientWindow:
    def __init__(
        self,
        dim: int,
        capacity: int,
        damping: float,
        relative: bool,
        dtype: str,
        count_scale: bool,
        block_size: int,
        error_feedback: bool,
        reduce: Callable[[npt.NDArray[np.float64]], None] | None,
    ) -> None: ...
    def push(self, g: Any) -> None: ...
    def precondition(self, g: Any, out: Any) -> Any: ...
    def solve(self, x: Any, out: Any) -> Any: ...
    def solve_recent(self, weights: npt.NDArray[np.float64], out: npt.NDArray[Any]) -> None: ...
    def quadratic_vector(self, x: Any) -> float: ...
    def quadratic_index(self, index: int) -> float: ...
    def logdet(self) -> float: ...
    def influence(self) -> npt.NDArray[np.float64]: ...
    def set_damping(self, value: float, relative: bool) -> None: ...
    def damping_in_use(self) -> float: ...
    def clear(self) -> None: ...
    def __len__(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any], damping: float, relative: bool) -> None: ...

Doubles = npt.NDArray[np.float64]

class Transport:
    def __init__(
        self,
        function: str,
        a: Doubles,
        b: Doubles,
        cost: npt.NDArray[Any] | None,
        points: tuple[Doubles, Doubles, int, float] | None,
        reg: float,
        rho_a: float,
        rho_b: float,
        mass_tolerance: float,
        check_finite: bool,
    ) -> None: ...
    def solve(
        self,
        method: int,
        tol: float,
        max_iter: int,
        f: Doubles | None,
        g: Doubles | None,
        callback: Callable[[str, int, float, float, float], bool] | None,
    ) -> dict[str, Any]: ...
    def rows(self, f: Doubles, g: Doubles, begin: int, end: int) -> Doubles: ...
    def apply(self, f: Doubles, g: Doubles, transposed: bool, v: Doubles) -> Doubles: ...
    def sparse(
        self, f: Doubles, g: Doubles, most_dropped: float
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], Doubles, float]: ...
    def hessian(self, f: Doubles, g: Doubles, p: Doubles, q: Doubles) -> tuple[Doubles, Doubles, float]: ...
    def weights(self, of_b: bool) -> Doubles: ...
    @staticmethod
    def solve_batch(problems: list[Transport], method: int, tol: float, max_iter: int) -> list[dict[str, Any]]: ...

class SparseSign:
    def __init__(self, rows: int, cols: int, nnz: int, seed: int) -> None: ...
    def add(self, a: npt.NDArray[Any], first: int, weights: Doubles | None, out: Doubles) -> None: ...
    def adjoint(self, b: npt.NDArray[Any], first: int, out: npt.NDArray[Any]) -> None: ...
    def entries(self, first: int, n: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int8]]: ...

class Gaussian:
    def __init__(self, rows: int, cols: int, seed: int) -> None: ...
    def add(self, a: npt.NDArray[Any], first: int, weights: Doubles | None, out: Doubles) -> None: ...
    def entries(self, first: int, n: int) -> Doubles: ...

class SRHT:
    def __init__(self, rows: int, cols: int, seed: int) -> None: ...
    def add(self, a: npt.NDArray[Any], first: int, weights: Doubles | None, out: Doubles) -> None: ...
    def entries(self, first: int, n: int) -> Doubles: ...

def _uniforms(seed: int, stream: int, n: int) -> Doubles: ...

class Rows:
    @staticmethod
    def dense(values: npt.NDArray[Any]) -> Rows: ...
    @staticmethod
    def compressed(
        values: npt.NDArray[Any], starts: npt.NDArray[np.int64], index: npt.NDArray[np.int32], cols: int
    ) -> Rows: ...
    @staticmethod
    def blocks(make: Callable[[], Iterable[Rows]], rows: int, cols: int) -> Rows: ...

def lstsq(
    a: Rows,
    b: Doubles,
    single: bool,
    ridge: float,
    rcond: float,
    method: int,
    tol: float,
    max_iter: int,
    seed: int,
    rows: int,
) -> dict[str, Any]: ...
def _normal(a: Rows, v: Doubles) -> Doubles: ...
def fit_glm(
    x: Rows,
    y: Doubles,
    weight: Doubles | None,
    offset: Doubles | None,
    classes: int,
    family: int,
    method: int,
    ridge: float,
    intercept: bool,
    tol: float,
    max_iter: int,
    init: Doubles | None,
    seed: int,
    single: bool,
    callback: Callable[..., bool] | None,
) -> dict[str, Any]: ...
def glm_information(
    x: Rows,
    y: Doubles,
    weight: Doubles | None,
    offset: Doubles | None,
    classes: int,
    family: int,
    ridge: float,
    intercept: bool,
    coef: Doubles,
) -> Doubles: ...
def minimize(
    fun: Callable[..., Any],
    jac: Callable[..., Any] | None,
    hess: Callable[..., Any] | None,
    hessp: Callable[..., Any] | None,
    constraint: Callable[..., Any],
    constraint_jacobian: Callable[..., Any],
    m: int,
    x0: Doubles,
    method: int,
    rule: int,
    inner: int,
    tol: float,
    max_iter: int,
    inner_max_iter: int,
    seed: int,
    multipliers: Doubles | None,
    period: int,
    order: float,
    callback: Callable[..., bool] | None,
    reached: list[dict[str, Any]],
) -> dict[str, Any]: ...
def solve_kkt(
    b: Rows,
    g: Rows | None,
    rhs: Doubles,
    method: int,
    tol: float,
    max_iter: int,
    seed: int,
    sampling: int,
    block_size: int,
) -> dict[str, Any]: ...
def _as_numpy(array: Any, function: str, argument: str) -> npt.NDArray[Any]: ...
def _like(like: Any, values: npt.NDArray[Any]) -> Any: ...
def _is_numpy(array: Any) -> bool: ...
def _require_same(a: Any, b: Any, function: str, name_a: str, name_b: str) -> None: ...
def _ot_time(kernel: bool, cost: npt.NDArray[Any], reg: float, repeats: int) -> float: ...
def _exp2(x: Doubles) -> Doubles: ...
def _time_orthogonalize(x: Any, out: Any, repeats: int) -> float: ...
def _fma_peak(dtype: str, seconds: float) -> float: ...
def _read_once(memory: Any) -> float: ...
def _philox(counter: Sequence[int], key: int) -> list[int]: ...
def _touch3(a: Any, b: Any, c: Any) -> None: ...
def _nothing3(a: Any, b: Any, c: Any) -> None: ...
