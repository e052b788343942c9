// Pictures to the encoder's planes: crop, Pillow's bicubic, normalisation. Plain C++, nothing of Node: preprocess.cc calls it.
#pragma once
#include <cstddef>
#include <cstdint>

// How a picture's samples lie, row by row.
enum class Layout {
  kRgb = 0,     // 3 bytes a pixel
  kCmyk = 1,    // 4 bytes a pixel, 255 = full ink
  kGrey16 = 2,  // 2 bytes a pixel, of this machine's order
};

struct Picture {
  const uint8_t* data;  // not owned
  int width, height;
  Layout layout;
};

// A part of a picture, in pixels; must lie within it.
struct Box {
  int left, top, width, height;
};

// Bytes of one pixel.
int PixelBytes(Layout layout);

// Whether this CPU has what the wide path needs.
bool HasAvx2();

// Resizes the part in `box` to size x size as Pillow before version 13 does, bit for bit, horizontally and then
// vertically, and looks each byte up in its channel's levels. Between the passes only the rows that one output row needs
// are kept, so that they stay in the CPU's nearest caches and a large picture costs no more memory than a small one.
//   levels  float32[3, 256]: the value of each byte
//   planes  float32[3, size, size], written
//   wide    computes with AVX2; the caller has asked HasAvx2(). The bits are the same either way
// Throws std::bad_alloc.
void ResizeNormalise(const Picture& picture, const Box& box, int size, const float* levels, float* planes, bool wide);
