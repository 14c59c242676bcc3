// The host's half of a solve on a CUDA device: the checks of check.cpp, and what is said about the answer.
#pragma once

#include <string>
#include <vector>

#include "ot/device_transport.h"

namespace raphson {

// A problem whose cost lies on a device. Weights and regularisation are the host's business, as on the CPU.
struct DeviceProblem {
    TransportProblem problem;
    bool poisoned = false;  // NaN or −Inf in a cost that was not to be refused: the answer is NaN
};

// As scan_cost and make_problem, in their words. `given.problem` is not read: n×m is the shape. Where +Inf forbids pairs,
// the cost visits the host, where the parts that the pairs fall into are found.
DeviceProblem make_device_problem(const std::string& function, const CudaTable& table, const CudaTransport& given, std::int64_t n,
                                  std::int64_t m, bool check_finite, std::vector<double> a, std::vector<double> b, double reg,
                                  double rho_a, double rho_b, double mass_tolerance, CudaPlace place);

// The method `sinkhorn` runs on the device, and the host looks at its error now and then; the others are the host's drivers,
// run.h, with every pass and every system on the device.
TransportSolution solve_on_device(const DeviceProblem& problem, const CudaTable& table, const CudaTransport& given,
                                  const TransportOptions& options, CudaPlace place);

// One of a batch; `given` is on the device that all of them are on.
struct DeviceCall {
    const DeviceProblem* problem;
    CudaTransport given;
    TransportOptions options;
};
// Each as solve_on_device, to the same bits: small dense ones by the method `sinkhorn` side by side, the others one after the
// other.
std::vector<TransportSolution> solve_on_device(const std::vector<DeviceCall>& calls, const CudaTable& table, CudaPlace place);

// As solve_hessian of queries.h; the vectors are the host's.
double solve_hessian(const DeviceProblem& problem, const CudaTable& table, const CudaTransport& given, Potentials at,
                     const double* p, const double* q, double* alpha, double* beta, CudaPlace place);

}  // namespace raphson
