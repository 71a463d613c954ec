#include "core/kernels/conv2d.h"

#include <algorithm>

#include "core/base/check.h"
#include "core/tensor/tensor_wrapper.h"

namespace penstock {

int64_t Conv2dOutputSize(int64_t size, int64_t kernel, int64_t stride, int64_t padding,
                         int64_t dilation) {
  const int64_t room = size + 2 * padding - dilation * (kernel - 1) - 1;
  return room < 0 ? 0 : room / stride + 1;
}

void CheckConv2dShapes(const Tensor& in, const Tensor& weight, const Tensor& bias,
                       const Conv2dOptions& options, const Tensor& out) {
  PENSTOCK_CHECK(in.is_contiguous() && weight.is_contiguous() && out.is_contiguous());
  PENSTOCK_CHECK(options.stride_y > 0 && options.stride_x > 0);
  PENSTOCK_CHECK(options.padding_y >= 0 && options.padding_x >= 0);
  PENSTOCK_CHECK(options.dilation_y > 0 && options.dilation_x > 0);
  PENSTOCK_CHECK_GT(options.groups, 0);
  PENSTOCK_CHECK_EQ(weight.dim(1) * options.groups, in.dim(1));
  PENSTOCK_CHECK_EQ(weight.dim(0) % options.groups, 0);
  if (!bias.empty()) PENSTOCK_CHECK_EQ(bias.dim(0), weight.dim(0));
  PENSTOCK_CHECK_EQ(out.dim(0), in.dim(0));
  PENSTOCK_CHECK_EQ(out.dim(1), weight.dim(0));
  PENSTOCK_CHECK_EQ(out.dim(2), Conv2dOutputSize(in.dim(2), weight.dim(2), options.stride_y,
                                                 options.padding_y, options.dilation_y));
  PENSTOCK_CHECK_EQ(out.dim(3), Conv2dOutputSize(in.dim(3), weight.dim(3), options.stride_x,
                                                 options.padding_x, options.dilation_x));
}

namespace cpu {
namespace {

// The places [first, last) along an axis whose input place * stride + shift lies in [0, size).
struct Range {
  int64_t first;
  int64_t last;
};

Range Inside(int64_t size, int64_t stride, int64_t shift, int64_t places) {
  const int64_t first = shift >= 0 ? 0 : (-shift + stride - 1) / stride;
  const int64_t last = shift >= size ? 0 : (size - 1 - shift) / stride + 1;
  return {first, std::min(last, places)};
}

}  // namespace

void Conv2d(ThreadPool& pool, const Tensor& in, const Tensor& weight, const Tensor& bias,
            const Conv2dOptions& options, const Tensor& out) {
  CheckConv2dShapes(in, weight, bias, options, out);
  const TensorWrapper<const float> source(in);
  const TensorWrapper<const float> taps(weight);
  const TensorWrapper<float> result(out);
  const float* shift = bias.empty() ? nullptr : TensorWrapper<const float>(bias).data();
  const int64_t height = in.dim(2);
  const int64_t width = in.dim(3);
  const int64_t out_channels = out.dim(1);
  const int64_t out_width = out.dim(3);
  const int64_t plane = out.dim(2) * out_width;
  const int64_t group_channels = weight.dim(1);
  const int64_t group_outputs = out_channels / options.groups;
  // One plane of the output at a time; a tap is added to whole rows of it.
  pool.ParallelFor(in.dim(0) * out_channels, 1, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t o = item % out_channels;
      float* sums = result.data() + item * plane;
      std::fill_n(sums, plane, shift == nullptr ? 0.0f : shift[o]);
      const float* tap = taps.row(o);
      for (int64_t c = 0; c < group_channels; ++c) {
        const int64_t channel = o / group_outputs * group_channels + c;
        const float* image = source.row(item / out_channels) + channel * height * width;
        for (int64_t i = 0; i < weight.dim(2); ++i) {
          const int64_t down = i * options.dilation_y - options.padding_y;
          const Range rows = Inside(height, options.stride_y, down, out.dim(2));
          for (int64_t j = 0; j < weight.dim(3); ++j, ++tap) {
            const int64_t across = j * options.dilation_x - options.padding_x;
            const Range columns = Inside(width, options.stride_x, across, out_width);
            for (int64_t y = rows.first; y < rows.last; ++y) {
              const float* line = image + (y * options.stride_y + down) * width;
              float* place = sums + y * out_width;
              for (int64_t x = columns.first; x < columns.last; ++x) {
                place[x] += *tap * line[x * options.stride_x + across];
              }
            }
          }
        }
      }
    }
  });
}

}  // namespace cpu
}  // namespace penstock
