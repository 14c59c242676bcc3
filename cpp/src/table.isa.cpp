// Gathers what this ISA's passes and cores export. The only symbol of an ISA that dispatch.cpp names.
#include "table.h"

#include <Eigen/Core>

#include "isa.h"

RAPHSON_ISA_BEGIN

extern const CeilingTable ceiling_table;
extern const GemmTable gemm_table;
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

// References to constants of other files are constants themselves: nothing here is computed at start-up.
extern const KernelTable kernel_table;
const KernelTable kernel_table{RAPHSON_ISA_NAME, EIGEN_VERSION_STRING, ceiling_table, gemm_table,
                               dense_table,      newton_schulz_table,  elementwise_table, ihvp_table,
                               ordering_table,   ot_table,             sketch_table,      sketch_core_table,
                               dense_sketch_table, sweep_table};

RAPHSON_ISA_END
