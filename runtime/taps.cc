// Source: python-pillow/Pillow 10-12, src/libImaging/Resample.c. src/data/images/resize.ts is the same in TypeScript, to be read
// first; a test holds the two together. Sums wrap as unsigned numbers, since signed overflow is undefined in C++.
#include "taps.h"

#include <algorithm>
#include <cmath>

namespace {

constexpr double kSupport = 2;  // reach of the cubic, in input pixels (when not shrinking)
constexpr double kA = -0.5;     // Pillow's and Catmull-Rom's; OpenCV and torch use -0.75

double Cubic(double distance) {
  const double x = std::fabs(distance);
  if (x < 1) return ((kA + 2) * x - (kA + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * kA;
  return 0;
}

int32_t FixedPoint(double weight) {
  return static_cast<int32_t>((weight < 0 ? -0.5 : 0.5) + weight * (1 << kBits));
}

uint8_t Clamp8(uint32_t sum) {
  const int32_t value = static_cast<int32_t>(sum) >> kBits;
  return static_cast<uint8_t>(std::min(std::max(value, 0), 255));
}

// w0 w1 w0 w1 w0 w1 0 0 | w2 w3 w2 w3 w2 w3 0 0: pairs of taps beside the pairs of red, green and blue that they weigh.
void FillHalves(Taps& taps) {
  taps.halves.assign(taps.weights.size() / kGroup * 32, 0);
  for (size_t group = 0; group < taps.weights.size() / kGroup; group++) {
    for (int i = 0; i < 16; i++) {
      if (i % 8 >= 6) continue;
      const int32_t weight = taps.weights[group * kGroup + (i / 8) * 2 + i % 2];
      taps.halves[group * 32 + i] = static_cast<int16_t>(weight >> kLowBits);
      taps.halves[group * 32 + 16 + i] = static_cast<int16_t>(weight & ((1 << kLowBits) - 1));
    }
  }
}

}  // namespace

Taps TapsOf(int in_size, int out_size, bool with_halves) {
  const double scale = static_cast<double>(in_size) / out_size;
  const double filter_scale = std::max(scale, 1.0);
  const double support = kSupport * filter_scale;
  const int longest = static_cast<int>(std::ceil(support)) * 2 + 1;
  Taps taps;
  taps.stride = (longest + kGroup - 1) / kGroup * kGroup;
  taps.most = 0;
  taps.weights.assign(static_cast<size_t>(taps.stride) * out_size, 0);
  std::vector<double> weights(longest);
  for (int i = 0; i < out_size; i++) {
    const double center = (i + 0.5) * scale;
    const int first = std::max(static_cast<int>(center - support + 0.5), 0);
    const int end = std::min(static_cast<int>(center + support + 0.5), in_size);
    double sum = 0;
    for (int j = first; j < end; j++) sum += weights[j - first] = Cubic((j - center + 0.5) * (1 / filter_scale));
    for (int j = 0; j < end - first; j++)
      taps.weights[static_cast<size_t>(i) * taps.stride + j] = FixedPoint(weights[j] * (1 / sum));
    taps.first.push_back(first);
    taps.count.push_back(end - first);
    taps.most = std::max(taps.most, end - first);
  }
  if (with_halves) FillHalves(taps);
  return taps;
}

void ResizeRowsPlain(const Taps& taps, const uint8_t* const* in, uint8_t* const* out) {
  const int width = static_cast<int>(taps.first.size());
  for (int row = 0; row < kRowsAtOnce; row++) {
    for (int x = 0; x < width; x++) {
      const int32_t* weights = taps.weights.data() + static_cast<size_t>(x) * taps.stride;
      const uint8_t* from = in[row] + 3 * static_cast<size_t>(taps.first[x]);
      uint32_t r = kHalf, g = kHalf, b = kHalf;
      for (int k = 0; k < taps.count[x]; k++, from += 3) {
        const uint32_t weight = static_cast<uint32_t>(weights[k]);
        r += from[0] * weight;
        g += from[1] * weight;
        b += from[2] * weight;
      }
      out[row][3 * x] = Clamp8(r);
      out[row][3 * x + 1] = Clamp8(g);
      out[row][3 * x + 2] = Clamp8(b);
    }
  }
}

void MixRowsPlain(const Taps& taps, int y, const uint8_t* const* in, int length, uint8_t* out) {
  const int32_t* weights = taps.weights.data() + static_cast<size_t>(y) * taps.stride;
  constexpr int kBlock = 64;  // bytes whose sums are kept at hand
  for (int start = 0; start < length; start += kBlock) {
    const int many = std::min(kBlock, length - start);
    uint32_t sums[kBlock];
    std::fill(sums, sums + many, static_cast<uint32_t>(kHalf));
    for (int k = 0; k < taps.count[y]; k++) {
      const uint32_t weight = static_cast<uint32_t>(weights[k]);
      for (int i = 0; i < many; i++) sums[i] += in[k][start + i] * weight;
    }
    for (int i = 0; i < many; i++) out[start + i] = Clamp8(sums[i]);
  }
}
