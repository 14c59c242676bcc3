#include <algorithm>
#include <stdexcept>
#include <string>

#include "cuda/copy.h"
#include "cuda/number.h"
#include "cuda/reduce.h"
#include "gemm/product.h"
#include "newton_schulz/batch_entries.h"
#include "newton_schulz/device_passes.h"

namespace raphson::cuda {

DeviceBatch::DeviceBatch(const BatchRef& x, bool transposed, const char* function)
    : data(static_cast<char*>(x.data)), dtype(x.dtype), axes(0), shape{}, strides{}, count(x.count()) {
    rows = transposed ? x.cols() : x.rows();
    cols = transposed ? x.rows() : x.cols();
    row_stride = x.strides[x.ndim - (transposed ? 1 : 2)];
    col_stride = x.strides[x.ndim - (transposed ? 2 : 1)];
    for (int i = 0; i + 2 < x.ndim; ++i) {
        if (x.shape[i] == 1) continue;
        if (axes > 0 && strides[axes - 1] == x.strides[i] * x.shape[i]) {
            shape[axes - 1] *= x.shape[i];
            strides[axes - 1] = x.strides[i];
            continue;
        }
        if (axes == most_axes) {
            throw std::invalid_argument(std::string(function) + ": x has more than " + std::to_string(most_axes) +
                                        " batch axes that lie apart in memory; copy it to a contiguous array first");
        }
        shape[axes] = x.shape[i];
        strides[axes++] = x.strides[i];
    }
}

bool DeviceBatch::lies_as(const DeviceBatch& other) const {
    return dtype == other.dtype && rows == other.rows && cols == other.cols && row_stride == other.row_stride &&
           col_stride == other.col_stride && count == other.count && axes == other.axes &&
           std::equal(shape, shape + axes, other.shape) && std::equal(strides, strides + axes, other.strides);
}

namespace {

constexpr int threads = batch_threads;

// ---- scan ---------------------------------------------------------------------------------------------------------------

// Squares of float64 leave its range: tiny and huge ones are summed apart, scaled (Blue 1978).
constexpr double tiny = 0x1p-511, huge = 0x1p486, up = 0x1p537, down = 0x1p-538;

struct Partial {
    double small, usual, big, max;
};

template <class T>
__device__ __forceinline__ void account(T given, Partial& sum) {
    const double x = static_cast<double>(widen(given)), size = fabs(x);
    sum.max = LargerOrNaN()(size, sum.max);
    if (sizeof(T) < 8 || !(size > huge || size < tiny)) {  // NaN is usual
        sum.usual += x * x;
    } else if (size > huge) {
        sum.big += (x * down) * (x * down);
    } else {
        sum.small += (x * up) * (x * up);
    }
}

template <class T>
__global__ void __launch_bounds__(threads) scan_kernel(const DeviceBatch x, int64_t first, int64_t parts, Partial* partials) {
    __shared__ double room[threads / 32];
    Partial sum{0, 0, 0, 0};
    for_entries<T>(x, first, parts, [&](T value) { account(value, sum); });
    sum.small = over_block(sum.small, room, Plus());
    sum.usual = over_block(sum.usual, room, Plus());
    sum.big = over_block(sum.big, room, Plus());
    sum.max = over_block(sum.max, room, LargerOrNaN());
    if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(threads) norm_kernel(const Partial* partials, int64_t parts, int64_t count, double factor,
                                                       double eps, DeviceNorm* norms) {
    const int64_t matrix = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
    if (matrix >= count) return;
    Partial sum{0, 0, 0, 0};
    for (int64_t p = 0; p < parts; ++p) {
        const Partial& one = partials[matrix * parts + p];
        sum.small += one.small;
        sum.usual += one.usual;
        sum.big += one.big;
        sum.max = LargerOrNaN()(one.max, sum.max);
    }
    double unit = 1, total = sum.usual + sum.small * (1 / up) * (1 / up);
    if (sum.big > 0 || sum.usual != sum.usual) {
        unit = 1 / down;
        total = sum.big + sum.usual * down * down;
    } else if (sum.usual == 0 && sum.small > 0) {
        unit = 1 / up;
        total = sum.small;
    }
    const double norm = factor * sqrt(total), floor = eps * (sum.max / unit);
    const double divisor = norm > floor || norm != norm ? norm : floor;
    norms[matrix] = {1 / unit, divisor == 0 ? 0 : 1 / divisor, total, sum.max, norm < floor};
}

// ---- copies ---------------------------------------------------------------------------------------------------------------

template <class T, class P>
__global__ void __launch_bounds__(threads) load_kernel(const DeviceBatch x, int64_t first, int64_t tiles, const DeviceNorm* norms,
                                                       const Working to) {
    const int64_t matrix = blockIdx.x / tiles;
    const DeviceNorm norm = norms[matrix];
    copy_tile(reinterpret_cast<const T*>(x.matrix(first + matrix)), x.row_stride, x.col_stride,
              static_cast<P*>(to.data) + matrix * to.step, to.ld, 1, x.rows, x.cols, blockIdx.x % tiles, [norm](T value) {
                  return Rounded<P>::of(static_cast<Sum<P>>(static_cast<double>(widen(value)) * norm.inverse_unit * norm.scale));
              });
}

template <class P, class T>
__global__ void __launch_bounds__(threads) store_kernel(const Working from, const DeviceBatch out, int64_t first, int64_t tiles) {
    const int64_t matrix = blockIdx.x / tiles;
    copy_tile(static_cast<const P*>(from.data) + matrix * from.step, from.ld, 1, reinterpret_cast<T*>(out.matrix(first + matrix)),
              out.row_stride, out.col_stride, out.rows, out.cols, blockIdx.x % tiles,
              [](P value) { return Rounded<T>::of(static_cast<Sum<T>>(widen(value))); });
}

// ---- normalisation by the Gram matrix ---------------------------------------------------------------------------------

constexpr const char* normalisation = "orthogonalize: normalisation";

// sums[row] = Σ|a|, squares[row] = Σa² of every row of every matrix; a warp each.
template <class P>
__global__ void __launch_bounds__(threads) row_sums_kernel(const Working a, double* sums, double* squares) {
    const int64_t line = (static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x) / 32;
    if (line >= a.count * a.rows) return;  // a whole warp
    const P* row = static_cast<const P*>(a.data) + line / a.rows * a.step + line % a.rows * a.ld;
    double sum = 0, square = 0;
    for (int64_t j = threadIdx.x % 32; j < a.cols; j += 32) {
        const double x = static_cast<double>(widen(row[j]));
        sum += fabs(x);
        square += x * x;
    }
    sum = over_warp(sum, Plus());
    square = over_warp(square, Plus());
    if (threadIdx.x % 32 != 0) return;
    sums[line] = sum;
    squares[line] = square;
}

// A block a matrix.
__global__ void __launch_bounds__(threads) factors_kernel(int64_t rows, bool aol, double norm_factor, double eps, const RowScales scales) {
    __shared__ double room[threads / 32];
    const double* mine = scales.sums + blockIdx.x * rows;
    double largest = 0, square = 0;
    for (int64_t i = threadIdx.x; i < rows; i += threads) {
        largest = LargerOrNaN()(mine[i], largest);
        square += scales.squares[blockIdx.x * rows + i];
    }
    largest = over_block(largest, room, LargerOrNaN());
    square = over_block(square, room, Plus());
    const double frobenius = sqrt(square), bound = largest < frobenius ? largest : frobenius;
    for (int64_t i = threadIdx.x; i < rows; i += threads) {
        const double floor = eps * largest, sum = mine[i] < floor ? floor : mine[i];
        const double by = aol ? norm_factor * sqrt(sum) : norm_factor * sqrt(bound);
        scales.factors[blockIdx.x * rows + i] = by > 0 || by != by ? 1 / by : (aol ? 0 : 1);
    }
}

template <class P>
__global__ void __launch_bounds__(threads) scale_kernel(const Working x, const double* row_factors, bool cols_too) {
    const int64_t line = blockIdx.x;  // of all matrices
    const double* factors = row_factors + line / x.rows * x.rows;
    P* row = static_cast<P*>(x.data) + line / x.rows * x.step + line % x.rows * x.ld;
    const double mine = factors[line % x.rows];
    for (int64_t j = threadIdx.x; j < x.cols; j += threads) {
        const double by = cols_too ? mine * factors[j] : mine;
        row[j] = Rounded<P>::of(static_cast<Sum<P>>(static_cast<double>(widen(row[j])) * by));
    }
}

template <class P, class T>
__global__ void __launch_bounds__(threads) store_scaled_kernel(const Working from, const DeviceNorm* scales, const DeviceBatch out,
                                                               int64_t first, int64_t tiles) {
    const int64_t matrix = blockIdx.x / tiles;
    const DeviceNorm by = scales[matrix];
    copy_tile(static_cast<const P*>(from.data) + matrix * from.step, from.ld, 1, reinterpret_cast<T*>(out.matrix(first + matrix)),
              out.row_stride, out.col_stride, out.rows, out.cols, blockIdx.x % tiles, [by](P value) {
                  const double scaled = by.inverse_unit == 0 ? 0 : static_cast<double>(value) * by.inverse_unit * by.scale;
                  return Rounded<T>::of(static_cast<Sum<T>>(scaled));
              });
}

template <class P>
__global__ void __launch_bounds__(threads) diagonal_kernel(const Working from, double diagonal, const Working to) {
    const int64_t line = blockIdx.x, row = line % from.rows;
    const P* x = static_cast<const P*>(from.data) + line / from.rows * from.step + row * from.ld;
    P* y = static_cast<P*>(to.data) + line / from.rows * to.step + row * to.ld;
    for (int64_t j = threadIdx.x; j < from.cols; j += threads) {
        y[j] = j == row ? Rounded<P>::of(widen(x[j]) + static_cast<Sum<P>>(diagonal)) : x[j];
    }
}

}  // namespace

Working take_padded(Scratch& scratch, DType type, int64_t rows, int64_t cols, int64_t count) {
    const int64_t ld = padded(cols);
    void* data = scratch.take(static_cast<std::size_t>(count * rows * ld * itemsize(type)));
    return {data, type, rows, cols, ld, rows * ld, count};
}

void multiply(double alpha, const Working& a, const Working& b, Right right, double beta, const Working* c, const Working& d,
              CudaPlace place) {
    Scratch scratch(place);  // back in the pool for the next product
    ProductJob job;
    job.type = d.type;
    job.m = d.rows;
    job.n = d.cols;
    job.k = a.cols;
    job.batch = d.count;
    job.alpha = alpha;
    job.a = {a.data, a.ld, a.step};
    job.b = {b.data, b.ld, b.step};
    job.b_transposed = right != Right::as_is;
    job.symmetric = right == Right::symmetric;
    if (c != nullptr) {
        job.beta = beta;
        job.c = {c->data, c->ld, c->step};
    }
    job.d = d.data;
    job.ldd = d.ld;
    job.step_d = d.step;
    product(job, scratch);
}

void scan(const DeviceBatch& x, int64_t first, int64_t count, double factor, double eps, DeviceNorm* norms, Scratch& scratch) {
    const int64_t parts = parts_of(x);
    auto* partials = scratch.take_array<Partial>(parts * count);
    for_type(x.dtype, [&](auto like) {
        launch("orthogonalize: norms", scratch.place(), {block_count(parts * count, "orthogonalize: norms"), threads},
               scan_kernel<decltype(like)>, x, first, parts, partials);
    });
    launch("orthogonalize: norms", scratch.place(), {block_count(ceil_div(count, threads), "orthogonalize: norms"), threads}, norm_kernel,
           partials, parts, count, factor, eps, norms);
}

std::vector<DeviceNorm> read_norms(const DeviceBatch& x, const char* name, CudaPlace place) {
    if (x.count == 0 || x.rows == 0 || x.cols == 0) return {};
    Scratch scratch(place);
    auto* norms = scratch.take_array<DeviceNorm>(x.count);
    scan(x, 0, x.count, 1, 0, norms, scratch);
    return read(norms, x.count, place, name);
}

void load(const DeviceBatch& x, int64_t first, const DeviceNorm* norms, const Working& to, CudaPlace place) {
    const int64_t tiles = ceil_div(x.rows, tile) * ceil_div(x.cols, tile);
    for_type(x.dtype, [&](auto given) {
        for_type(to.type, [&](auto like) {
            launch("orthogonalize: load", place, {block_count(tiles * to.count, "orthogonalize: load"), threads},
                   load_kernel<decltype(given), decltype(like)>, x, first, tiles, norms, to);
        });
    });
}

void store(const Working& from, const DeviceBatch& out, int64_t first, CudaPlace place) {
    const int64_t tiles = ceil_div(out.rows, tile) * ceil_div(out.cols, tile);
    for_type(out.dtype, [&](auto given) {
        for_type(from.type, [&](auto like) {
            launch("orthogonalize: store", place, {block_count(tiles * from.count, "orthogonalize: store"), threads},
                   store_kernel<decltype(like), decltype(given)>, from, out, first, tiles);
        });
    });
}

void store_scaled(const Working& from, const DeviceNorm* by, const DeviceBatch& out, int64_t first, CudaPlace place) {
    const char* const name = "orthogonalize_vjp: store";
    const int64_t tiles = ceil_div(out.rows, tile) * ceil_div(out.cols, tile);
    for_type(out.dtype, [&](auto given) {
        using T = decltype(given);
        const auto kernel = from.type == DType::float64 ? store_scaled_kernel<double, T> : store_scaled_kernel<float, T>;
        launch(name, place, {block_count(tiles * from.count, name), threads}, kernel, from, by, out, first, tiles);
    });
}

RowScales row_scales(const Working& a, bool aol, double norm_factor, double eps, Scratch& scratch) {
    const int64_t lines = a.count * a.rows;
    const RowScales scales{scratch.take_array<double>(lines), scratch.take_array<double>(lines), scratch.take_array<double>(lines)};
    for_type(a.type, [&](auto like) {
        launch(normalisation, scratch.place(), {block_count(ceil_div(lines, threads / 32), normalisation), threads},
               row_sums_kernel<decltype(like)>, a, scales.sums, scales.squares);
    });
    launch(normalisation, scratch.place(), {block_count(a.count, normalisation), threads}, factors_kernel, a.rows, aol, norm_factor,
           eps, scales);
    return scales;
}

void scale_rows(const Working& x, const double* factors, bool cols_too, CudaPlace place) {
    for_type(x.type, [&](auto like) {
        launch(normalisation, place, {block_count(x.count * x.rows, normalisation), threads}, scale_kernel<decltype(like)>, x, factors,
               cols_too);
    });
}

void rescale(const Working& x, const Working& a, bool aol, double norm_factor, double eps, Scratch& scratch) {
    const RowScales scales = row_scales(a, aol, norm_factor, eps, scratch);
    scale_rows(x, scales.factors, false, scratch.place());
    scale_rows(a, scales.factors, true, scratch.place());
}

void add_diagonal(const Working& from, double diagonal, const Working& to, CudaPlace place) {
    for_type(from.type, [&](auto like) {
        launch("orthogonalize: diagonal", place, {block_count(from.count * from.rows, "orthogonalize: diagonal"), threads},
               diagonal_kernel<decltype(like)>, from, diagonal, to);
    });
}

}  // namespace raphson::cuda
