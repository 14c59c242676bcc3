// The wall between instruction sets: everything a *.isa.cpp file defines, and everything its headers define inline,
// lives in raphson::RAPHSON_ISA, a namespace named after the ISA the file is compiled for. Without it the linker keeps
// one copy of each inline function, possibly the one with instructions that the running CPU lacks.
#pragma once

#ifndef RAPHSON_ISA
#error "isa.h belongs in files that CMake compiles once per ISA (*.isa.cpp and the headers they alone include)"
#endif

#define RAPHSON_ISA_BEGIN namespace raphson { namespace RAPHSON_ISA {
#define RAPHSON_ISA_END \
    }                   \
    }
