// What one instruction set offers: C function pointers and raw memory only, so that nothing compiled for one ISA can be
// mistaken for another's. A family adds one field, a reference: so the whole table is a constant, filled in when the
// program is loaded. Not one instruction of an ISA may run before the CPU is known to have it.
#pragma once

#include "dense/blocks.h"
#include "gemm/ceilings.h"
#include "gemm/table.h"
#include "ihvp/passes.h"
#include "newton/ordering.h"
#include "newton_schulz/elementwise.h"
#include "newton_schulz/passes.h"
#include "ot/passes.h"
#include "sketch/completion_passes.h"
#include "sketch/core.h"
#include "sketch/dense_passes.h"
#include "sketch/passes.h"
#include "sketch/sweep_passes.h"

namespace raphson {

struct KernelTable {
    const char* isa;            // the name that build_info() and RAPHSON_ISA use
    const char* eigen_version;  // of the Eigen these kernels were compiled with
    const CeilingTable& ceilings;
    const GemmTable& gemm;
    const DenseTable& dense;
    const NewtonSchulzTable& newton_schulz;
    const ElementwiseTable& elementwise;  // newton_schulz, the rest of it
    const IhvpTable& ihvp;
    const OrderingTable& ordering;  // newton
    const OtTable& ot;
    const SketchTable& sketch;
    const SketchCoreTable& sketch_core;
    const DenseSketchTable& dense_sketch;
    const SweepTable& sweep;  // over tall matrices: sketch and newton
    const CompletionTable& completion;  // sketch
};

// The best table that this CPU and RAPHSON_ISA allow, chosen once. std::invalid_argument for an unknown RAPHSON_ISA.
const KernelTable& kernels();

// Every table built, lowest first, and whether this CPU can run it: for build_info() and for tests of each ISA.
struct BuiltTable {
    const KernelTable* table;
    bool runs_here;
};
struct BuiltTables {
    const BuiltTable* first;
    int count;
};
BuiltTables built_tables();

}  // namespace raphson
