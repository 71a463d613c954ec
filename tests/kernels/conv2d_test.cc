#include "core/kernels/conv2d.h"

#include "tests/support/backends.h"
#include "tests/support/padded_rows.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)

void RunOn(Backend backend, const Tensor& in, const Tensor& weight, const Tensor& bias,
           const Conv2dOptions& options, const Tensor& out) {
  if (backend == Backend::kCpu) return cpu::Conv2d(Pool(), in, weight, bias, options, out);
  if constexpr (kCudaBuilt) {
    const GpuCall gpu;
    cuda::LaunchConv2d(gpu.stream(), gpu.In(in), gpu.In(weight), bias.empty() ? bias : gpu.In(bias),
                       options, gpu.Out(out));
  }
}

struct Case {
  Shape in;
  Shape weight;
  Conv2dOptions options;
};

Shape OutputShape(const Case& c) {
  const Conv2dOptions& o = c.options;
  return {c.in[0], c.weight[0],
          Conv2dOutputSize(c.in[2], c.weight[2], o.stride_y, o.padding_y, o.dilation_y),
          Conv2dOutputSize(c.in[3], c.weight[3], o.stride_x, o.padding_x, o.dilation_x)};
}

std::vector<double> Float64(const Case& c, const Tensor& in, const Tensor& weight,
                            const std::vector<float>& bias) {
  const Shape shape = OutputShape(c);
  const Conv2dOptions& o = c.options;
  const int64_t group_outputs = shape[1] / o.groups;
  std::vector<double> out;
  for (int64_t place = 0; place < shape.num_elements(); ++place) {
    const int64_t x = place % shape[3];
    const int64_t y = place / shape[3] % shape[2];
    const int64_t channel = place / (shape[3] * shape[2]) % shape[1];
    const int64_t image = place / (shape[3] * shape[2] * shape[1]);
    double sum = bias.empty() ? 0.0 : double{bias[static_cast<size_t>(channel)]};
    for (int64_t tap = 0; tap < c.weight[1] * c.weight[2] * c.weight[3]; ++tap) {
      const int64_t j = tap % c.weight[3];
      const int64_t i = tap / c.weight[3] % c.weight[2];
      const int64_t from = tap / (c.weight[3] * c.weight[2]);
      const int64_t row = y * o.stride_y - o.padding_y + i * o.dilation_y;
      const int64_t column = x * o.stride_x - o.padding_x + j * o.dilation_x;
      if (row < 0 || row >= c.in[2] || column < 0 || column >= c.in[3]) continue;
      sum += double{At(weight, channel, from, i, j)} *
             At(in, image, channel / group_outputs * c.weight[1] + from, row, column);
    }
    out.push_back(sum);
  }
  return out;
}

TEST(Conv2d, MatchesFloat64) {
  const Case cases[] = {
      {{1, 1, 1, 1}, {1, 1, 1, 1}, {}},
      {{2, 3, 9, 11}, {5, 3, 3, 3}, {}},
      {{2, 3, 9, 11}, {5, 3, 3, 3}, {.padding_y = 1, .padding_x = 1}},
      {{1, 4, 13, 8}, {3, 4, 5, 2}, {.stride_y = 2, .stride_x = 3, .padding_y = 2, .padding_x = 1}},
      {{1, 2, 12, 12}, {2, 2, 3, 3}, {.padding_y = 3, .dilation_y = 2, .dilation_x = 3}},
      {{2, 6, 7, 7}, {4, 3, 3, 3}, {.padding_y = 1, .padding_x = 1, .groups = 2}},
      {{1, 5, 6, 10}, {5, 1, 3, 3}, {.stride_x = 2, .padding_x = 1, .groups = 5}},  // depthwise
      {{2, 8, 14, 14}, {150, 8, 3, 3}, {.padding_y = 1, .padding_x = 1}},
      {{3, 2, 70, 150}, {128, 2, 3, 3}, {.padding_y = 1, .padding_x = 1}},  // wide tiles
      {{1, 1, 3, 3}, {2, 1, 3, 3}, {.padding_y = 4, .padding_x = 4}},  // places without any input
  };
  for (const Case& c : cases) {
    const Tensor in = Random(c.in, 1);
    const Tensor weight = Random(c.weight, 2);
    const Tensor bias = Random({c.weight[0]}, 3);
    for (bool with_bias : {false, true}) {
      const std::vector<float> shift = with_bias ? ToVector(bias) : std::vector<float>();
      const std::vector<double> reference = Float64(c, in, weight, shift);
      for (const Backend backend : Backends()) {
        const Tensor out = Poisoned(OutputShape(c));
        RunOn(backend, in, weight, with_bias ? bias : Tensor(), c.options, out);
        EXPECT_LE(RelativeError(out, reference), kFloatTolerance)
            << Target{backend, DataType::kF32} << ", " << c.in.ToString() << " by "
            << c.weight.ToString();
      }
    }
  }
}

TEST(Conv2d, OutputSizes) {
  EXPECT_EQ(Conv2dOutputSize(224, 7, 2, 3, 1), 112);
  EXPECT_EQ(Conv2dOutputSize(5, 5, 1, 0, 1), 1);
  EXPECT_EQ(Conv2dOutputSize(4, 5, 1, 0, 1), 0);
  EXPECT_EQ(Conv2dOutputSize(4, 3, 1, 0, 2), 0);
}

TEST(Conv2dDeathTest, RefusesAnOutputOfAnotherSize) {
  EXPECT_DEATH(cpu::Conv2d(Pool(), Random({1, 1, 5, 5}, 1), Random({1, 1, 3, 3}, 2), Tensor(), {},
                           Poisoned({1, 1, 5, 5})),
               "out.dim\\(2\\)");
}

}  // namespace
}  // namespace penstock
