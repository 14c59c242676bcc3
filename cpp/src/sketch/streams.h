// The streams of Philox that embeddings draw from: one for each kind of number.
#pragma once

#include <cstdint>

namespace raphson {

constexpr std::uint32_t sparse_sign_stream = 0x53534b31, gaussian_stream = 0x53474131;
constexpr std::uint32_t completion_start_stream = 0x434d5031, completion_row_stream = 0x434d5032;
constexpr std::uint32_t omega_stream = 0x534f5231;  // drawn in Python, _sor_bandit.py: listed so that nobody else takes it
constexpr std::uint32_t srht_sign_stream = 0x53524831, srht_row_stream = 0x53524832;

}  // namespace raphson
