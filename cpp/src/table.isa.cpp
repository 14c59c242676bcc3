// Gathers what this ISA's passes and cores export. The only symbol of an ISA that dispatch.cpp names.
#include "table.h"

#include <Eigen/Core>

#include "isa.h"

// Where this instruction set's table finds the kernels that it has none of its own for: another's namespace, or this.
#ifndef RAPHSON_ISA_REST
#define RAPHSON_ISA_REST RAPHSON_ISA
#endif
#define RAPHSON_REST_BEGIN namespace raphson { namespace RAPHSON_ISA_REST {
#define RAPHSON_REST_END \
    }                    \
    }

RAPHSON_ISA_BEGIN
extern const CeilingTable ceiling_table;
extern const GemmTable gemm_table;
RAPHSON_ISA_END

RAPHSON_REST_BEGIN
extern const DenseTable dense_table;
extern const NewtonSchulzTable newton_schulz_table;
extern const ElementwiseTable elementwise_table;
extern const IhvpTable ihvp_table;
extern const OrderingTable ordering_table;
extern const OtTable ot_table;
extern const SketchTable sketch_table;
extern const SketchCoreTable sketch_core_table;
extern const DenseSketchTable dense_sketch_table;
extern const SweepTable sweep_table;
extern const CompletionTable completion_table;
RAPHSON_REST_END

RAPHSON_ISA_BEGIN

namespace rest = RAPHSON_ISA_REST;
// References to constants of other files are constants themselves: nothing here is computed at start-up.
extern const KernelTable kernel_table;
const KernelTable kernel_table{RAPHSON_ISA_NAME,
                               EIGEN_VERSION_STRING,
                               ceiling_table,
                               gemm_table,
                               rest::dense_table,
                               rest::newton_schulz_table,
                               rest::elementwise_table,
                               rest::ihvp_table,
                               rest::ordering_table,
                               rest::ot_table,
                               rest::sketch_table,
                               rest::sketch_core_table,
                               rest::dense_sketch_table,
                               rest::sweep_table,
                               rest::completion_table};

RAPHSON_ISA_END
