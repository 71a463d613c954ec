#include "core/kernels/conv2d.h"
#include "cuda/gemm_tile.cuh"
#include "cuda/kernels/launchers.h"
#include "cuda/launch.h"

namespace penstock::cuda {
namespace {

struct ConvShape {
  int batch, in_channels, height, width;
  int out_channels, kernel_height, kernel_width;
  int out_height, out_width;
  int stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x;
  int group_inputs, group_outputs;  // channels
};

// The input as the matrix [group_inputs * kernel_height * kernel_width, batch * out_height *
// out_width] that a convolution multiplies by (implicit GEMM: it exists in slabs only; Chetlur et
// al., 2014, arXiv:1410.0759). A thread has one output place, threadIdx.x % 128, and every second
// k.
struct ImplicitB {
  const float* image;  // of this place's batch element and group; nullptr beyond the last place
  const ConvShape& shape;
  int depth;
  int top;  // input row and column of the kernel's corner
  int left;

  __device__ __forceinline__ TileLoad Load(int64_t k) const {
    TileLoad load;
#pragma unroll
    for (int i = 0; i < kTileRuns * 4; ++i) {
      const int at = static_cast<int>(k) + threadIdx.x / kTile + i * 2;
      const int row_of_kernel = at / shape.kernel_width;
      const int channel = row_of_kernel / shape.kernel_height;
      const int y = top + (row_of_kernel - channel * shape.kernel_height) * shape.dilation_y;
      const int x = left + (at - row_of_kernel * shape.kernel_width) * shape.dilation_x;
      const bool in =
          image != nullptr && at < depth && y >= 0 && y < shape.height && x >= 0 && x < shape.width;
      const int64_t place = (static_cast<int64_t>(channel) * shape.height + y) * shape.width + x;
      load.at[i] = in ? __ldg(image + place) : 0.0f;
    }
    return load;
  }

  __device__ __forceinline__ void Store(const TileLoad& load,
                                        float (&slab)[kTileDepth][kTile]) const {
#pragma unroll
    for (int i = 0; i < kTileRuns * 4; ++i)
      slab[threadIdx.x / kTile + i * 2][threadIdx.x % kTile] = load.at[i];
  }
};

// A block a tile of output channels (y) by output places (x) of a group (z).
template <bool kAligned>
__global__ void __launch_bounds__(kTileThreads, 2)
    Conv2dKernel(const float* in, const float* weight, const float* bias,
                 const __grid_constant__ ConvShape shape, float* out) {
  __shared__ TileStorage storage;
  LetNextBegin();
  WaitForInputs();
  const int plane = shape.out_height * shape.out_width;
  const int64_t places = static_cast<int64_t>(shape.batch) * plane;
  const int64_t first_place = static_cast<int64_t>(blockIdx.x) * kTile;
  const int first_output = static_cast<int>(blockIdx.y) * kTile;  // in the group
  const int group = static_cast<int>(blockIdx.z);
  const int depth = shape.group_inputs * shape.kernel_height * shape.kernel_width;

  const int64_t mine = first_place + threadIdx.x % kTile;
  const int64_t image = min(mine, places - 1) / plane;
  const int within = static_cast<int>(min(mine, places - 1) % plane);
  const float* channels = in + (image * shape.in_channels + group * shape.group_inputs) *
                                   static_cast<int64_t>(shape.height) * shape.width;
  const ImplicitB load_b = {mine < places ? channels : nullptr, shape, depth,
                            within / shape.out_width * shape.stride_y - shape.padding_y,
                            within % shape.out_width * shape.stride_x - shape.padding_x};
  const int64_t first_channel = static_cast<int64_t>(group) * shape.group_outputs + first_output;
  float sums[8][8] = {};
  MultiplyTile(storage, depth,
               RowMajorA<kAligned>{weight + first_channel * depth,
                                   shape.group_outputs - first_output, depth},
               load_b, sums);

  const TilePlace at = ThreadPlace();
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const int64_t place = first_place + at.column + j / 4 * 64 + j % 4;
    if (place >= places) continue;
    float* pixel = out + place / plane * shape.out_channels * plane + place % plane;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int row = at.row + i / 4 * 64 + i % 4;
      if (first_output + row >= shape.group_outputs) continue;
      const int64_t channel = first_channel + row;
      pixel[channel * plane] = sums[i][j] + (bias == nullptr ? 0.0f : bias[channel]);
    }
  }
}

int Narrow(int64_t value) {
  PENSTOCK_CHECK_GE(value, 0);
  PENSTOCK_CHECK_LE(value, INT32_MAX / 2);
  return static_cast<int>(value);
}

}  // namespace

void LaunchConv2d(cudaStream_t stream, const Tensor& in, const Tensor& weight, const Tensor& bias,
                  const Conv2dOptions& options, const Tensor& out) {
  CheckConv2dShapes(in, weight, bias, options, out);
  const ConvShape shape = {Narrow(in.dim(0)),
                           Narrow(in.dim(1)),
                           Narrow(in.dim(2)),
                           Narrow(in.dim(3)),
                           Narrow(weight.dim(0)),
                           Narrow(weight.dim(2)),
                           Narrow(weight.dim(3)),
                           Narrow(out.dim(2)),
                           Narrow(out.dim(3)),
                           Narrow(options.stride_y),
                           Narrow(options.stride_x),
                           Narrow(options.padding_y),
                           Narrow(options.padding_x),
                           Narrow(options.dilation_y),
                           Narrow(options.dilation_x),
                           Narrow(weight.dim(1)),
                           Narrow(weight.dim(0) / options.groups)};
  const int64_t depth = weight.dim(1) * weight.dim(2) * weight.dim(3);
  PENSTOCK_CHECK_LE(depth, INT32_MAX / 2);
  PENSTOCK_CHECK_LE(out.dim(2) * out.dim(3), INT32_MAX / 2);
  const dim3 grid(Blocks(out.dim(0) * out.dim(2) * out.dim(3), kTile),
                  Blocks(shape.group_outputs, kTile), Blocks(options.groups));
  PENSTOCK_CHECK_LE(std::max(grid.y, grid.z), 65535u);
  const bool aligned = IsWide(weight, depth);
  Launch(stream, {grid, dim3(kTileThreads)}, aligned ? Conv2dKernel<true> : Conv2dKernel<false>,
         Elements<const float>(in), Elements<const float>(weight),
         bias.empty() ? nullptr : Elements<const float>(bias), shape, Elements<float>(out));
}

}  // namespace penstock::cuda
