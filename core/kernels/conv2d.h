// conv2d: two-dimensional convolution as neural networks mean it (cross-correlation), NCHW.
//   out[b, o, y, x] = bias[o] + sum_{c, i, j} weight[o, c, i, j] *
//                     in[b, g * channels / groups + c, y * stride_y - padding_y + i * dilation_y,
//                                                      x * stride_x - padding_x + j * dilation_x]
//   with g = o / (out_channels / groups); places outside the input contribute nothing
// in     [batch, channels, height, width] f32
// weight [out_channels, channels / groups, kernel_height, kernel_width] f32
// bias   [out_channels] f32, or empty
// out    [batch, out_channels, out_height, out_width] f32
// Stride, padding, dilation by axis and groups (up to depthwise) are supported; no other padding
// than zeros. A library kernel. Order of sums: c, i, j ascending after the bias.
// Flops: 2 * the elements of out * (channels / groups) * kernel_height * kernel_width.
#pragma once

#include "core/base/thread_pool.h"
#include "core/tensor/tensor.h"

namespace penstock {

struct Conv2dOptions {
  int64_t stride_y = 1;
  int64_t stride_x = 1;
  int64_t padding_y = 0;  // rows of zeros on either side
  int64_t padding_x = 0;
  int64_t dilation_y = 1;
  int64_t dilation_x = 1;
  int64_t groups = 1;
};

// Places of the kernel along an axis of `size` elements; 0 if it fits nowhere.
int64_t Conv2dOutputSize(int64_t size, int64_t kernel, int64_t stride, int64_t padding,
                         int64_t dilation);

// CHECKs shapes and options against each other.
void CheckConv2dShapes(const Tensor& in, const Tensor& weight, const Tensor& bias,
                       const Conv2dOptions& options, const Tensor& out);

namespace cpu {

void Conv2d(ThreadPool& pool, const Tensor& in, const Tensor& weight, const Tensor& bias,
            const Conv2dOptions& options, const Tensor& out);

}  // namespace cpu
}  // namespace penstock
