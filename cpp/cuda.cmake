# The CUDA kernels, as a static library: with nvcc for GPUs, or as C++ against tests/cuda/emulation.
set(RAPHSON_CUDA_SOURCES
  src/cuda/copy.cu
  src/cuda/runtime.cu
  src/cuda/table.cu
  src/dense/invert.cu
  src/gemm/blas.cu
  src/gemm/product.cu
  src/gemm/wgmma.cu
  src/ihvp/core.cu
  src/ihvp/device_fisher.cu
  src/ihvp/device_window.cu
  src/ihvp/fisher_passes.cu
  src/ihvp/fisher_vectors.cu
  src/ihvp/gauss_newton.cu
  src/ihvp/inverse_factor.cu
  src/ihvp/passes.cu
  src/ihvp/rank_one.cu
  src/newton_schulz/device_functions.cu
  src/newton_schulz/eigh.cu
  src/newton_schulz/function_passes.cu
  src/newton_schulz/function_vjp.cu
  src/newton_schulz/general.cu
  src/newton_schulz/iterate.cu
  src/newton_schulz/orthonormal.cu
  src/newton_schulz/outliers.cu
  src/newton_schulz/passes.cu
  src/newton_schulz/resident.cu
  src/newton_schulz/resident_float.cu
  src/newton_schulz/resident_wide.cu
  src/newton_schulz/vjp.cu
  src/ot/device_transport.cu
  src/ot/gradient.cu
  src/ot/iterate.cu
  src/ot/level.cu
  src/ot/passes.cu
  src/ot/pattern.cu
  src/ot/resident.cu
  src/ot/schur.cu
  src/ot/small.cu
  src/sketch/classes.cu
  src/sketch/columns.cu
  src/sketch/device_rows.cu
  src/sketch/device_sketch.cu
  src/sketch/gaussian.cu
  src/sketch/hadamard.cu
  src/sketch/passes.cu
  src/sketch/sweep.cu
)
list(TRANSFORM RAPHSON_CUDA_SOURCES PREPEND ${PROJECT_SOURCE_DIR}/cpp/)

function(raphson_cuda_target target)
  set_target_properties(${target} PROPERTIES POSITION_INDEPENDENT_CODE ON)
  target_include_directories(${target} PUBLIC ${PROJECT_SOURCE_DIR}/cpp/src ${PROJECT_SOURCE_DIR}/cpp/include)
  target_link_libraries(${target} PUBLIC ${CMAKE_DL_LIBS} Threads::Threads)
endfunction()

macro(raphson_add_cuda target)
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES "80-real;90a-real;90-virtual")
  endif()
  enable_language(CUDA)
  find_package(CUDAToolkit REQUIRED)
  add_library(${target} STATIC ${RAPHSON_CUDA_SOURCES})
  raphson_cuda_target(${target})
  # Always optimised: without it ptxas serialises wgmma (C7510), which is an error here, as is every warning in CI.
  target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:-O3 -DNDEBUG --expt-relaxed-constexpr
    $<$<BOOL:${RAPHSON_WERROR}>:-Werror=all-warnings -Xptxas=-Werror>>)
  target_link_libraries(${target} PUBLIC CUDA::cudart_static)
endmacro()

# The same sources on the CPU, a warp at a time: what tests run where there is no GPU.
function(raphson_add_emulated_cuda target)
  set(emulation ${PROJECT_SOURCE_DIR}/tests/cuda/emulation)
  add_library(${target} STATIC ${RAPHSON_CUDA_SOURCES} ${emulation}/emulation.cpp)
  raphson_cuda_target(${target})
  raphson_emulated(${target} ${RAPHSON_CUDA_SOURCES})
endfunction()
# .cu files as C++; properties of sources hold for the directory that asks.
function(raphson_emulated target)
  target_include_directories(${target} BEFORE PUBLIC ${PROJECT_SOURCE_DIR}/tests/cuda/emulation)
  target_compile_options(${target} PRIVATE -Wno-unknown-pragmas)
  set_source_files_properties(${ARGN} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-xc++")
  target_link_libraries(${target} PRIVATE raphson_flags)
endfunction()
