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

// Where a k of the implicit matrix lies, seen from the input element under the kernel's corner.
struct alignas(16) Tap {
  int64_t offset;
  int y;  // beyond any input for k's beyond the depth
  int x;
};

// The input as the matrix [group_inputs * kernel_height * kernel_width, batch * out_height *
// out_width] that a convolution multiplies by (implicit GEMM: it exists in slabs only; Chetlur et
// al., 2014, arXiv:1410.0759). A thread has one output place and every kApart-th k of a slab; what
// needs a division, where a k lies, is worked out once a slab and block.
template <typename Shape>
struct ImplicitB {
  static constexpr int kApart = Shape::kThreads / Shape::kColumns;  // k's of a thread
  static_assert(Shape::kThreads % Shape::kColumns == 0);

  const float* corner;  // of this place's image and group
  const ConvShape& shape;
  int depth;
  int top;   // input row and column of the kernel's corner; `top` beyond any input for a place
  int left;  // that does not exist
  Tap (*taps)[kTileDepth];  // [Shape::kStages], shared

  __device__ __forceinline__ void Prepare(int slab) const {
    if (threadIdx.x >= kTileDepth) return;
    const int at = slab * kTileDepth + static_cast<int>(threadIdx.x);
    const int row_of_kernel = at / shape.kernel_width;
    const int channel = row_of_kernel / shape.kernel_height;
    const int y = (row_of_kernel - channel * shape.kernel_height) * shape.dilation_y;
    const int x = (at - row_of_kernel * shape.kernel_width) * shape.dilation_x;
    taps[slab % Shape::kStages][threadIdx.x] = {
        (static_cast<int64_t>(channel) * shape.height + y) * shape.width + x,
        at < depth ? y : INT32_MIN / 2, x};
  }
  __device__ __forceinline__ void Fetch(int slab, float* shared) const {
    const Tap* of_slab = taps[slab % Shape::kStages];
#pragma unroll
    for (int i = 0; i < kTileDepth; i += kApart) {
      const int k = i + static_cast<int>(threadIdx.x) / Shape::kColumns;
      const Tap tap = of_slab[k];
      const bool is_in = static_cast<unsigned>(top + tap.y) < static_cast<unsigned>(shape.height) &&
                         static_cast<unsigned>(left + tap.x) < static_cast<unsigned>(shape.width);
      CopyAsync<1>(shared + k * Shape::kColumns + threadIdx.x % Shape::kColumns,
                   corner + tap.offset, is_in);
    }
  }
};

// A block a tile of output channels (y) by output places (x) of a group (z).
template <typename Shape, bool kAligned>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kAtOnce)
    Conv2dKernel(const float* in, const float* weight, const float* bias,
                 const __grid_constant__ ConvShape shape, float* out) {
  extern __shared__ __align__(16) float storage[];  // Shape::kBytes
  __shared__ Tap taps[Shape::kStages][kTileDepth];
  LetNextBegin();
  WaitForInputs();
  const int plane = shape.out_height * shape.out_width;
  const int64_t places = static_cast<int64_t>(shape.batch) * plane;
  const int64_t first_place = static_cast<int64_t>(blockIdx.x) * Shape::kColumns;
  const int first_output = static_cast<int>(blockIdx.y) * Shape::kRows;  // in the group
  const int group = static_cast<int>(blockIdx.z);
  const int depth = shape.group_inputs * shape.kernel_height * shape.kernel_width;

  const int64_t mine = first_place + threadIdx.x % Shape::kColumns;
  const int64_t image = min(mine, places - 1) / plane;
  const int within = static_cast<int>(min(mine, places - 1) % plane);
  const int y = within / shape.out_width * shape.stride_y - shape.padding_y;
  const int left = within % shape.out_width * shape.stride_x - shape.padding_x;
  const float* channels = in + (image * shape.in_channels + group * shape.group_inputs) *
                                   static_cast<int64_t>(shape.height) * shape.width;
  const ImplicitB<Shape> load_b = {channels + static_cast<int64_t>(y) * shape.width + left,
                                   shape,
                                   depth,
                                   mine < places ? y : INT32_MIN / 2,
                                   left,
                                   taps};
  const int64_t first_channel = static_cast<int64_t>(group) * shape.group_outputs + first_output;
  TileSums<Shape> sums = {};
  const RowMajorA<Shape, kAligned> load_a(weight + first_channel * depth,
                                          shape.group_outputs - first_output, depth);
  if (!MultiplyTile<Shape>(storage, depth, load_a, load_b, sums)) return;

  const TilePlace<Shape> at;
  // Then four places are in one image, and lie as one instruction stores them.
  const bool fours = plane % 4 == 0 && reinterpret_cast<uintptr_t>(out) % 16 == 0;
#pragma unroll
  for (int j = 0; j < Shape::kThreadColumns; ++j) {
    const int64_t place = first_place + at.column + j / 4 * 16 + j % 4;
    if (place >= places || (fours && j % 4 != 0)) continue;
    float* pixel = out + place / plane * shape.out_channels * plane + place % plane;
#pragma unroll
    for (int i = 0; i < kTileThreadRows; ++i) {
      const int row = at.row + i * 8;
      if (first_output + row >= shape.group_outputs) continue;
      const int64_t channel = first_channel + row;
      const float shift = bias == nullptr ? 0.0f : bias[channel];
      float* to = pixel + channel * plane;
      if (fours) {
        *reinterpret_cast<float4*>(to) =
            make_float4(sums[i][j / 4 * 4] + shift, sums[i][j / 4 * 4 + 1] + shift,
                        sums[i][j / 4 * 4 + 2] + shift, sums[i][j / 4 * 4 + 3] + shift);
      } else {
        *to = sums[i][j] + shift;
      }
    }
  }
}

int Narrow(int64_t value) {
  PENSTOCK_CHECK_GE(value, 0);
  PENSTOCK_CHECK_LE(value, INT32_MAX / 4);
  return static_cast<int>(value);
}

// Whether the wide tiles of a group of so many channels and places are done sooner: they gather
// less, split ones keep the multiprocessors busy where tiles are few.
bool WideTileWins(int64_t rows, int64_t columns, int multiprocessors) {
  constexpr double kSplitTileCost = 1.1;  // of a multiplication, beside the wide one's
  const int64_t at_once = std::max(multiprocessors, 1);
  const auto time = [&](int64_t tile_rows, int64_t tile_columns) {
    const int64_t tiles =
        (rows + tile_rows - 1) / tile_rows * ((columns + tile_columns - 1) / tile_columns);
    return static_cast<double>((tiles + at_once - 1) / at_once * tile_rows * tile_columns);
  };
  return time(WideTile::kRows, WideTile::kColumns) <=
         kSplitTileCost * time(SplitTile::kRows, SplitTile::kColumns);
}

template <typename Shape>
void LaunchTiles(cudaStream_t stream, const Tensor& in, const Tensor& weight, const Tensor& bias,
                 const ConvShape& shape, const Tensor& out) {
  const int64_t depth = weight.dim(1) * weight.dim(2) * weight.dim(3);
  const dim3 grid(Blocks(out.dim(0) * out.dim(2) * out.dim(3), Shape::kColumns),
                  Blocks(shape.group_outputs, Shape::kRows),
                  Blocks(shape.out_channels / shape.group_outputs));
  PENSTOCK_CHECK_LE(std::max(grid.y, grid.z), 65535u);
  const auto kernel =
      IsWide(weight, depth) ? Conv2dKernel<Shape, true> : Conv2dKernel<Shape, false>;
  AllowShared(kernel, Shape::kBytes);
  Launch(stream, {grid, dim3(Shape::kThreads), Shape::kBytes}, kernel, Elements<const float>(in),
         Elements<const float>(weight), bias.empty() ? nullptr : Elements<const float>(bias), shape,
         Elements<float>(out));
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
  Narrow(weight.dim(1) * weight.dim(2) * weight.dim(3));
  Narrow(out.dim(2) * out.dim(3));
  if (WideTileWins(shape.group_outputs, out.dim(0) * out.dim(2) * out.dim(3),
                   NumMultiprocessors() / static_cast<int>(options.groups))) {
    return LaunchTiles<WideTile>(stream, in, weight, bias, shape, out);
  }
  LaunchTiles<SplitTile>(stream, in, weight, bias, shape, out);
}

}  // namespace penstock::cuda
