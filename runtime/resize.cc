#include "resize.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "taps.h"

namespace {

// a * b / 255 rounded, in Pillow's integers (MULDIV255).
uint8_t Multiply255(unsigned a, unsigned b) {
  const unsigned product = a * b + 128;
  return static_cast<uint8_t>(((product >> 8) + product) >> 8);
}

// Part of one row as RGB. CMYK by Pillow's cmyk2rgb; 16 bits of grey by its I16_RGB, which clips at 255 and does not scale.
void ConvertRow(Layout layout, const uint8_t* from, int width, uint8_t* rgb) {
  if (layout == Layout::kRgb) {
    std::memcpy(rgb, from, 3 * static_cast<size_t>(width));
    return;
  }
  for (int x = 0; x < width; x++, rgb += 3) {
    if (layout == Layout::kCmyk) {
      const unsigned light = 255 - from[4 * x + 3];
      for (int ink = 0; ink < 3; ink++) rgb[ink] = Multiply255(light, 255 - from[4 * x + ink]);
    } else {
      uint16_t level;
      std::memcpy(&level, from + 2 * x, 2);
      rgb[0] = rgb[1] = rgb[2] = static_cast<uint8_t>(std::min<int>(level, 255));
    }
  }
}

// Rows of the box as RGB with readable bytes behind them: in place where that is safe, else copied.
class RowReader {
 public:
  RowReader(const Picture& picture, const Box& box, const Taps& taps) : picture_(picture), box_(box) {
    // The last position starts furthest to the right; the taps that fill its groups may lie outside of the box
    reach_ = 3 * static_cast<size_t>(std::max(taps.first.back() + taps.stride, box.width)) + kPadding;
    end_ = picture.data + static_cast<size_t>(picture.width) * picture.height * PixelBytes(picture.layout);
  }

  // Valid until the next call for the same slot, 0 .. kRowsAtOnce - 1.
  const uint8_t* Read(int y, int slot) {
    const size_t pixel = static_cast<size_t>(box_.top + y) * picture_.width + box_.left;
    const uint8_t* row = picture_.data + pixel * PixelBytes(picture_.layout);
    if (picture_.layout == Layout::kRgb && static_cast<size_t>(end_ - row) >= reach_) return row;
    copies_[slot].resize(reach_);  // zeros behind the row: their weights are 0, but they must be there
    ConvertRow(picture_.layout, row, box_.width, copies_[slot].data());
    return copies_[slot].data();
  }

 private:
  const Picture& picture_;
  const Box& box_;
  const uint8_t* end_;
  size_t reach_;
  std::vector<uint8_t> copies_[kRowsAtOnce];
};

// The rows of the horizontal pass that the vertical one still needs.
class RowRing {
 public:
  RowRing(int rows, int length) : rows_(rows), stride_(length + kPadding) {
    bytes_.resize(static_cast<size_t>(rows_) * stride_);
  }
  uint8_t* At(int y) { return bytes_.data() + static_cast<size_t>(y % rows_) * stride_; }

 private:
  int rows_;
  size_t stride_;
  std::vector<uint8_t> bytes_;
};

void LookUp(const uint8_t* row, int size, const float* levels, float* planes) {
  for (int channel = 0; channel < 3; channel++) {
    float* plane = planes + static_cast<size_t>(channel) * size * size;
    for (int x = 0; x < size; x++) plane[x] = levels[256 * channel + row[3 * x + channel]];
  }
}

}  // namespace

int PixelBytes(Layout layout) {
  return layout == Layout::kRgb ? 3 : layout == Layout::kCmyk ? 4 : 2;
}

bool HasAvx2() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx2");
#else
  return false;
#endif
}

void ResizeNormalise(const Picture& picture, const Box& box, int size, const float* levels, float* planes, bool wide) {
  auto resize_rows = ResizeRowsPlain;
  auto mix_rows = MixRowsPlain;
#if defined(__x86_64__)
  if (wide) {
    resize_rows = ResizeRowsAvx2;
    mix_rows = MixRowsAvx2;
  }
#endif
  const Taps across = TapsOf(box.width, size, wide), down = TapsOf(box.height, size, false);
  RowReader reader(picture, box, across);
  RowRing ring(down.most + kRowsAtOnce, 3 * size);
  std::vector<const uint8_t*> mixed(down.most);
  std::vector<uint8_t> row(3 * size + kPadding);
  for (int y = 0, done = 0; y < size; y++) {
    while (done < down.first[y] + down.count[y]) {
      const uint8_t* in[kRowsAtOnce];
      uint8_t* out[kRowsAtOnce];
      for (int i = 0; i < kRowsAtOnce; i++, done++) {  // behind the last row, the last one again
        in[i] = reader.Read(std::min(done, box.height - 1), i);
        out[i] = ring.At(done);
      }
      resize_rows(across, in, out);
    }
    for (int k = 0; k < down.count[y]; k++) mixed[k] = ring.At(down.first[y] + k);
    mix_rows(down, y, mixed.data(), 3 * size, row.data());
    LookUp(row.data(), size, levels, planes + static_cast<size_t>(y) * size);
  }
}
