// The weights of Pillow's bicubic, in fixed point, and the four steps that are computed plainly or with AVX2.
#pragma once
#include <cstdint>
#include <vector>

constexpr int kBits = 22;                        // of a weight's fraction: 32 minus 8 of the pixel minus 2 for overshoot
constexpr int32_t kHalf = 1 << (kBits - 1);      // rounds to nearest
constexpr int kLowBits = 12;                     // of a weight's lower half: weight = high * 2^12 + low
constexpr int kRowsAtOnce = 4;                   // rows of one horizontal step, which share the loads of the weights
constexpr int kGroup = 4;                        // taps that the wide horizontal step takes at once
constexpr int kPadding = 32;                     // bytes that wide loads and stores may touch behind a row

// For each output position: its first input position, how many follow, and their weights in 1/2^22.
struct Taps {
  std::vector<int> first, count;
  std::vector<int32_t> weights;  // `stride` a position, zeros behind the last
  int stride;                    // a multiple of kGroup
  int most;                      // largest count
  // Each group's weights as _mm256_madd_epi16 wants them, high halves and then low ones: 32 numbers a group.
  std::vector<int16_t> halves;
};

// Pillow's precompute_coeffs and normalize_coeffs_8bpc. `halves` is filled on request.
Taps TapsOf(int in_size, int out_size, bool with_halves);

// One horizontal step: kRowsAtOnce rows of RGB to rows of `taps.first.size()` pixels.
void ResizeRowsPlain(const Taps& taps, const uint8_t* const* in, uint8_t* const* out);
// One vertical step: row `y` of the output, `length` bytes, of the rows in[0 .. taps.count[y]).
void MixRowsPlain(const Taps& taps, int y, const uint8_t* const* in, int length, uint8_t* out);

#if defined(__x86_64__)
// The same bits with AVX2. `in` must be readable up to kPadding bytes behind the last tap's group, `out` be writable as far.
void ResizeRowsAvx2(const Taps& taps, const uint8_t* const* in, uint8_t* const* out);
void MixRowsAvx2(const Taps& taps, int y, const uint8_t* const* in, int length, uint8_t* out);
#endif
