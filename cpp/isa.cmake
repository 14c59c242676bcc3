# raphson_add_isas(VAR SOURCES [OWN]): compiles SOURCES once per instruction set and puts the object files into VAR, lowest
# ISA first: if a std:: inline function should ever be shared after all, the linker keeps the copy every CPU can run. An
# instruction set that differs from another in a few kernels names it in its fourth field: only the sources OWN are compiled
# for it, and RAPHSON_ISA_REST is the namespace where its table finds the others.
# Each compilation gets RAPHSON_ISA (the namespace of our code), RAPHSON_ISA_NAME (what users see) and a renamed Eigen.

# namespace|name|flags[|the rest is that namespace's], lowest first
if(MSVC AND CMAKE_SYSTEM_PROCESSOR MATCHES "AMD64|x86_64")
  set(RAPHSON_ISAS "v2|x86-64-v2|" "v3|x86-64-v3|/arch:AVX2" "v4|x86-64-v4|/arch:AVX512")
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  set(RAPHSON_ISAS
    "v2|x86-64-v2|-march=x86-64-v2"
    "v3|x86-64-v3|-march=x86-64-v3"
    "v4|x86-64-v4|-march=x86-64-v4 -mprefer-vector-width=512"
    "v4_bf16|x86-64-v4+avx512_bf16|-march=x86-64-v4 -mavx512bf16 -mprefer-vector-width=512"
    "v4_amx|x86-64-v4+amx_bf16|-march=x86-64-v4 -mavx512bf16 -mprefer-vector-width=512 -DRAPHSON_AMX|v4_bf16")
else()
  set(RAPHSON_ISAS "baseline|${CMAKE_SYSTEM_PROCESSOR}|")
endif()

# For builds that run one instruction set only, such as those under sanitizers; everything else wants them all.
set(RAPHSON_ONLY_ISA "" CACHE STRING "Build the kernels for this instruction set alone, e.g. x86-64-v4")
if(RAPHSON_ONLY_ISA)
  string(REPLACE "+" "\\+" only "${RAPHSON_ONLY_ISA}")
  list(FILTER RAPHSON_ISAS INCLUDE REGEX "\\|${only}\\|")
  if(NOT RAPHSON_ISAS)
    message(FATAL_ERROR "RAPHSON_ONLY_ISA=${RAPHSON_ONLY_ISA} is not an instruction set of this platform")
  endif()
  list(TRANSFORM RAPHSON_ISAS REPLACE "^([^|]*\\|[^|]*\\|[^|]*).*$" "\\1")  # all of it
endif()

set(RAPHSON_ISA_LIST "")
foreach(isa IN LISTS RAPHSON_ISAS)
  string(REGEX MATCH "^[^|]*" space "${isa}")
  string(APPEND RAPHSON_ISA_LIST "RAPHSON_ISA_ENTRY(${space})")
endforeach()
set(RAPHSON_ISA_DEFINITIONS "RAPHSON_ISA_LIST=${RAPHSON_ISA_LIST}")

function(raphson_add_isas result sources)
  set(objects "")
  foreach(isa IN LISTS RAPHSON_ISAS)
    string(REGEX MATCH "^([^|]*)\\|([^|]*)\\|([^|]*)(\\|(.*))?$" _ "${isa}")
    set(space "${CMAKE_MATCH_1}")
    set(name "${CMAKE_MATCH_2}")
    separate_arguments(flags NATIVE_COMMAND "${CMAKE_MATCH_3}")
    set(rest "${CMAKE_MATCH_5}")
    set(target ${result}_${space})
    if(rest AND ARGN)
      add_library(${target} OBJECT ${ARGN})
      target_compile_definitions(${target} PRIVATE RAPHSON_ISA_REST=${rest})
    else()
      add_library(${target} OBJECT ${sources})
    endif()
    target_compile_options(${target} PRIVATE ${flags})
    if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND space MATCHES "^v4")
      target_compile_options(${target} PRIVATE -Wno-maybe-uninitialized -Wno-uninitialized)  # gcc 12's own avx512fintrin.h
    endif()
    target_compile_definitions(${target} PRIVATE
      RAPHSON_ISA=${space} RAPHSON_ISA_NAME="${name}" Eigen=Eigen_${space} EIGEN_MPL2_ONLY EIGEN_DONT_PARALLELIZE)
    target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR}/cpp/include ${PROJECT_SOURCE_DIR}/cpp/src)
    target_include_directories(${target} SYSTEM PRIVATE ${PROJECT_SOURCE_DIR}/cpp/third_party/eigen)
    target_link_libraries(${target} PRIVATE raphson_flags)
    list(APPEND objects $<TARGET_OBJECTS:${target}>)
  endforeach()
  set(${result} "${objects}" PARENT_SCOPE)
endfunction()
