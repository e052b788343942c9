// The two passes with AVX2, for CPUs that have it. A weight has 24 bits, and AVX2 multiplies two pairs of 16-bit numbers
// and adds each pair's products for the price of one; so a weight is cut in two, its halves are summed apart, and the sums
// are put together at the end. All is integer arithmetic modulo 2^32: the same bits as the plain way.
#include "taps.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <cstring>

#define WIDE __attribute__((target("avx2")))

namespace {

// (high * 2^12 + low + half) >> 22
WIDE inline __m128i Joined(__m128i high, __m128i low) {
  const __m128i sum = _mm_add_epi32(_mm_slli_epi32(high, kLowBits), _mm_add_epi32(low, _mm_set1_epi32(kHalf)));
  return _mm_srai_epi32(sum, kBits);
}

WIDE inline __m256i Joined(__m256i high, __m256i low) {
  const __m256i sum =
      _mm256_add_epi32(_mm256_slli_epi32(high, kLowBits), _mm256_add_epi32(low, _mm256_set1_epi32(kHalf)));
  return _mm256_srai_epi32(sum, kBits);
}

WIDE inline __m128i LanesAdded(__m256i value) {
  return _mm_add_epi32(_mm256_castsi256_si128(value), _mm256_extracti128_si256(value, 1));
}

}  // namespace

WIDE void ResizeRowsAvx2(const Taps& taps, const uint8_t* const* in, uint8_t* const* out) {
  // Four pixels r g b r g b ... to pairs of 16 bits: r0 r1 g0 g1 b0 b1 - - | r2 r3 g2 g3 b2 b3 - -
  const __m256i pairs = _mm256_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1,  //
                                         6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1);
  const int width = static_cast<int>(taps.first.size());
  for (int x = 0; x < width; x++) {
    const int groups = (taps.count[x] + kGroup - 1) / kGroup;
    const int16_t* halves = taps.halves.data() + static_cast<size_t>(x) * taps.stride / kGroup * 32;
    size_t from = 3 * static_cast<size_t>(taps.first[x]);
    __m256i high[kRowsAtOnce], low[kRowsAtOnce];
    for (int row = 0; row < kRowsAtOnce; row++) high[row] = low[row] = _mm256_setzero_si256();
    for (int group = 0; group < groups; group++, halves += 32, from += 3 * kGroup) {
      const __m256i high_weights = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(halves));
      const __m256i low_weights = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(halves + 16));
#pragma GCC unroll 4
      for (int row = 0; row < kRowsAtOnce; row++) {
        const __m128i pixels = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in[row] + from));
        const __m256i values = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(pixels), pairs);
        high[row] = _mm256_add_epi32(high[row], _mm256_madd_epi16(values, high_weights));
        low[row] = _mm256_add_epi32(low[row], _mm256_madd_epi16(values, low_weights));
      }
    }
    __m128i colours[kRowsAtOnce];
    for (int row = 0; row < kRowsAtOnce; row++) colours[row] = Joined(LanesAdded(high[row]), LanesAdded(low[row]));
    const __m128i bytes =
        _mm_packus_epi16(_mm_packs_epi32(colours[0], colours[1]), _mm_packs_epi32(colours[2], colours[3]));
    alignas(16) uint8_t quads[16];
    _mm_store_si128(reinterpret_cast<__m128i*>(quads), bytes);
    // The fourth byte is nothing's; the next pixel overwrites it
    for (int row = 0; row < kRowsAtOnce; row++) std::memcpy(out[row] + 3 * x, quads + 4 * row, 4);
  }
}

WIDE void MixRowsAvx2(const Taps& taps, int y, const uint8_t* const* in, int length, uint8_t* out) {
  const int32_t* weights = taps.weights.data() + static_cast<size_t>(y) * taps.stride;
  const int count = taps.count[y];
  const __m256i zero = _mm256_setzero_si256();
  for (int i = 0; i < length; i += 32) {
    __m256i high[4] = {zero, zero, zero, zero}, low[4] = {zero, zero, zero, zero};
    for (int k = 0; k < count; k += 2) {
      const bool is_pair = k + 1 < count;  // else the second row has the weight 0
      const uint32_t a = static_cast<uint32_t>(weights[k]), b = is_pair ? static_cast<uint32_t>(weights[k + 1]) : 0;
      constexpr uint32_t kLowMask = (1 << kLowBits) - 1;
      const uint32_t a_high = static_cast<uint32_t>(static_cast<int32_t>(a) >> kLowBits) & 0xffff;
      const uint32_t b_high = static_cast<uint32_t>(static_cast<int32_t>(b) >> kLowBits) & 0xffff;
      const __m256i high_weights = _mm256_set1_epi32(static_cast<int>(a_high | b_high << 16));
      const __m256i low_weights = _mm256_set1_epi32(static_cast<int>((a & kLowMask) | (b & kLowMask) << 16));
      const __m256i first = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in[k] + i));
      const __m256i second = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in[is_pair ? k + 1 : k] + i));
      const __m256i left = _mm256_unpacklo_epi8(first, second), right = _mm256_unpackhi_epi8(first, second);
      const __m256i values[4] = {_mm256_unpacklo_epi8(left, zero), _mm256_unpackhi_epi8(left, zero),
                                 _mm256_unpacklo_epi8(right, zero), _mm256_unpackhi_epi8(right, zero)};
#pragma GCC unroll 4
      for (int part = 0; part < 4; part++) {
        high[part] = _mm256_add_epi32(high[part], _mm256_madd_epi16(values[part], high_weights));
        low[part] = _mm256_add_epi32(low[part], _mm256_madd_epi16(values[part], low_weights));
      }
    }
    const __m256i left = _mm256_packs_epi32(Joined(high[0], low[0]), Joined(high[1], low[1]));
    const __m256i right = _mm256_packs_epi32(Joined(high[2], low[2]), Joined(high[3], low[3]));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i), _mm256_packus_epi16(left, right));
  }
}
#endif
