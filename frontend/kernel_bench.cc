#include "frontend/kernel_bench.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <utility>

#include "core/base/kv_block.h"
#include "core/io/dummy_values.h"
#include "core/kernels/attention_args.h"
#include "core/tensor/dequantize.h"
#include "core/tensor/tensor_wrapper.h"

namespace penstock {
namespace {

constexpr double kRotatedBytes = 256e6;  // several times any cache
constexpr int64_t kMostSets = 64;
constexpr int kRuns = 7;
constexpr double kLeastSeconds = 2e-3;  // of a run: its start and its end are little beside it
constexpr int64_t kCheckedRows = 4;
constexpr int64_t kCheckedColumns = 64;
constexpr float kEps = 1e-5F;

double Tolerance(DataType type) {
  return type == DataType::kF32 ? 1e-5 : type == DataType::kF16 ? 3e-3 : 1e-2;
}

double Silu(double x) { return x / (1 + std::exp(-x)); }

// Places of a matrix [rows, columns] that are spread over some rows.
std::vector<int64_t> SpreadPlaces(int64_t rows, int64_t columns) {
  std::vector<int64_t> places;
  const int64_t checked = std::min(rows, kCheckedRows);
  for (int64_t row = 0; row < checked; ++row) {
    for (int64_t i = 0; i < std::min(columns, kCheckedColumns); ++i) {
      places.push_back(row * columns + (i * 7919 + row) % columns);
    }
  }
  return places;
}

std::string Dimensions(int64_t rows, int64_t columns) { return absl::StrCat(rows, " x ", columns); }

}  // namespace

double KernelFigures::Share(const DeviceCeilings& ceilings) const {
  if (ceilings.read_bytes_per_second <= 0) return 0;
  const double computing = ceilings.flops_per_second > 0 ? flops / ceilings.flops_per_second : 0;
  return std::max(bytes / ceilings.read_bytes_per_second, computing) / (microseconds * 1e-6);
}

double KernelBench::Values::At(int64_t i) const {
  return static_cast<double>(DummyValue(key, bound, i));
}

absl::StatusOr<Tensor> KernelBench::Place(const Values& values, const Shape& shape) {
  WeightStream stream;
  stream.shape = shape;
  stream.read = [values](int64_t first, int64_t count, void* out) {
    DummyValues(values.key, values.bound, first, count, static_cast<float*>(out));
  };
  return backend_.PlaceWeight(stream);
}

absl::StatusOr<std::vector<Tensor>> KernelBench::PlaceMany(const Values& values, const Shape& shape,
                                                           int64_t count) {
  std::vector<Tensor> tensors;
  for (int64_t i = 0; i < count; ++i) {
    PENSTOCK_ASSIGN_OR_RETURN(Tensor tensor, Place(values, shape));
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

absl::StatusOr<Tensor> KernelBench::MakeOut(const Shape& shape, DataType type) {
  return Tensor::Make(type, shape, backend_.memory());
}

int64_t KernelBench::SetsOf(double bytes) {
  return std::clamp(static_cast<int64_t>(kRotatedBytes / bytes), int64_t{2}, kMostSets);
}

absl::Status KernelBench::Check(const std::string& kernel, const Tensor& out,
                                const std::function<void(const Tensor& out)>& enqueue,
                                const std::vector<int64_t>& places,
                                const std::function<double(int64_t place)>& expected) {
  PENSTOCK_ASSIGN_OR_RETURN(const Tensor host,
                            Tensor::Make(out.type(), out.shape(), backend_.outputs()));
  std::fill_n(static_cast<uint8_t*>(const_cast<void*>(host.raw())), host.bytes(), uint8_t{0xff});
  backend_.SendInputs({});
  enqueue(backend_.KernelView(host));
  backend_.FetchOutputs();
  std::vector<float> values(static_cast<size_t>(host.num_elements()));
  Dequantize(host.type(), host.raw(), host.num_elements(), values.data());
  double wrong = 0;
  double size = 0;
  for (const int64_t place : places) {
    const double reference = expected(place);
    const double difference = double{values[static_cast<size_t>(place)]} - reference;
    wrong += difference * difference;
    size += reference * reference;
  }
  const double error = std::sqrt(wrong / size);
  if (error <= Tolerance(backend_.precision())) return absl::OkStatus();  // NaN is not
  return absl::DataLossError(
      absl::StrCat(kernel, " is wrong: its relative error is ", error, ": is the device sound?"));
}

void KernelBench::Time(KernelFigures figures, int64_t sets,
                       const std::function<void(int64_t)>& enqueue) {
  using Clock = std::chrono::steady_clock;
  int64_t calls = sets;
  const auto run = [&] {
    const auto start = Clock::now();
    backend_.RunDecodes(graphs_, [&] {
      for (int64_t i = 0; i < calls; ++i) enqueue(i % sets);
    });
    backend_.FetchOutputs();
    return std::chrono::duration<double>(Clock::now() - start).count();
  };
  ++graphs_;
  run();  // what is chosen or captured at the first time
  const double once = run();
  if (once < kLeastSeconds) {
    calls *= static_cast<int64_t>(std::ceil(kLeastSeconds / once));
    ++graphs_;
    run();
  }
  std::vector<double> seconds(kRuns);
  for (double& each : seconds) each = run();
  std::sort(seconds.begin(), seconds.end());
  figures.microseconds = seconds[kRuns / 2] * 1e6 / static_cast<double>(calls);
  report_(figures);
}

absl::Status KernelBench::RunRows(int64_t tokens) {
  PENSTOCK_RETURN_IF_ERROR(RunNorms(tokens));
  PENSTOCK_RETURN_IF_ERROR(RunSwiglu(tokens));
  const DataType type = backend_.precision();
  const int64_t hidden = config_.hidden_size;
  const int64_t wide = config_.intermediate_size;
  PENSTOCK_RETURN_IF_ERROR(
      RunLinear("linear qkv", tokens, hidden, config_.qkv_size(), type, false));
  PENSTOCK_RETURN_IF_ERROR(
      RunLinear("linear_add output", tokens, config_.q_size(), hidden, DataType::kF32, true));
  PENSTOCK_RETURN_IF_ERROR(RunLinear("linear gate, up", tokens, hidden, 2 * wide, type, false));
  PENSTOCK_RETURN_IF_ERROR(
      RunLinear("linear_add down", tokens, wide, hidden, DataType::kF32, true));
  if (tokens > 256) return absl::OkStatus();  // no step samples as many
  return RunLinear("linear LM head", tokens, hidden, config_.vocab_size, DataType::kF32, false);
}

absl::Status KernelBench::RunNorms(int64_t tokens) {
  const int64_t hidden = config_.hidden_size;
  const Shape shape({tokens, hidden});
  const Values of_x = {1, 1};
  const Values of_residual = {2, 1};
  const Values of_gain = {3, 1};
  const double tensor_bytes = static_cast<double>(tokens * hidden) *
                              static_cast<double>(Info(backend_.precision()).block_bytes);
  const int64_t sets = SetsOf(2 * tensor_bytes);
  PENSTOCK_ASSIGN_OR_RETURN(const Tensor gain, Place(of_gain, {hidden}));
  PENSTOCK_ASSIGN_OR_RETURN(const std::vector<Tensor> x, PlaceMany(of_x, shape, sets));
  PENSTOCK_ASSIGN_OR_RETURN(const std::vector<Tensor> residual,
                            PlaceMany(of_residual, shape, sets));
  PENSTOCK_ASSIGN_OR_RETURN(const Tensor out, MakeOut(shape, backend_.precision()));
  const int64_t rows = std::min(tokens, kCheckedRows);
  const auto norm_at = [&](const std::function<double(int64_t)>& value, int64_t place) {
    double squares = 0;
    const int64_t row = place / hidden;
    for (int64_t i = 0; i < hidden; ++i) squares += std::pow(value(row * hidden + i), 2);
    return value(place) / std::sqrt(squares / static_cast<double>(hidden) + kEps) *
           of_gain.At(place % hidden);
  };
  const std::vector<int64_t> places = SpreadPlaces(rows, hidden);
  PENSTOCK_RETURN_IF_ERROR(Check(
      "rms_norm", out.Slice(0, rows),
      [&](const Tensor& to) { backend_.ops().RmsNorm(x[0].Slice(0, rows), gain, kEps, to); },
      places,
      [&](int64_t place) { return norm_at([&](int64_t i) { return of_x.At(i); }, place); }));
  Time({"rms_norm", Dimensions(tokens, hidden), 0, 2 * tensor_bytes, 0}, sets,
       [&](int64_t i) { backend_.ops().RmsNorm(x[static_cast<size_t>(i)], gain, kEps, out); });
  PENSTOCK_RETURN_IF_ERROR(Check(
      "fused_residual_norm", out.Slice(0, rows),
      [&](const Tensor& to) {
        backend_.ops().FusedResidualNorm(residual[0].Slice(0, rows), x[0].Slice(0, rows), Tensor(),
                                         gain, kEps, to);
      },
      places,
      [&](int64_t place) {
        return norm_at([&](int64_t i) { return of_x.At(i) + of_residual.At(i); }, place);
      }));
  Time({"fused_residual_norm", Dimensions(tokens, hidden), 0, 4 * tensor_bytes, 0}, sets,
       [&](int64_t i) {
         const auto at = static_cast<size_t>(i);
         backend_.ops().FusedResidualNorm(residual[at], x[at], Tensor(), gain, kEps, out);
       });
  return absl::OkStatus();
}

absl::Status KernelBench::RunSwiglu(int64_t tokens) {
  const int64_t wide = config_.intermediate_size;
  const Values of_in = {4, 2};
  const double bytes = 3 * static_cast<double>(tokens * wide) *
                       static_cast<double>(Info(backend_.precision()).block_bytes);
  const int64_t sets = SetsOf(bytes);
  PENSTOCK_ASSIGN_OR_RETURN(const std::vector<Tensor> in,
                            PlaceMany(of_in, {tokens, 2 * wide}, sets));
  PENSTOCK_ASSIGN_OR_RETURN(const Tensor out, MakeOut({tokens, wide}, backend_.precision()));
  const int64_t rows = std::min(tokens, kCheckedRows);
  PENSTOCK_RETURN_IF_ERROR(Check(
      "swiglu", out.Slice(0, rows),
      [&](const Tensor& to) { backend_.ops().Swiglu(in[0].Slice(0, rows), to); },
      SpreadPlaces(rows, wide),
      [&](int64_t place) {
        const int64_t at = place / wide * 2 * wide + place % wide;
        return Silu(of_in.At(at)) * of_in.At(at + wide);
      }));
  Time({"swiglu", Dimensions(tokens, wide), 0, bytes, 0}, sets,
       [&](int64_t i) { backend_.ops().Swiglu(in[static_cast<size_t>(i)], out); });
  return absl::OkStatus();
}

absl::Status KernelBench::RunLinear(const std::string& name, int64_t tokens, int64_t in,
                                    int64_t out_features, DataType out_type, bool adds) {
  const Values of_x = {5, 1};
  const Values of_weight = {6, 0.05F};
  const auto element = static_cast<double>(Info(backend_.precision()).block_bytes);
  const double weight_bytes = static_cast<double>(in * out_features) * element;
  const int64_t sets = SetsOf(weight_bytes);
  PENSTOCK_ASSIGN_OR_RETURN(const Tensor x, Place(of_x, {tokens, in}));
  PENSTOCK_ASSIGN_OR_RETURN(const std::vector<Tensor> weights,
                            PlaceMany(of_weight, {out_features, in}, sets));
  PENSTOCK_ASSIGN_OR_RETURN(const Tensor out, MakeOut({tokens, out_features}, out_type));
  PENSTOCK_RETURN_IF_ERROR(Check(
      name, out,
      [&](const Tensor& to) {
        backend_.ops().Linear(x, weights[0], to);
        if (adds) backend_.ops().LinearAdd(x, weights[0], to);
      },
      SpreadPlaces(tokens, out_features),
      [&](int64_t place) {
        double sum = 0;
        for (int64_t i = 0; i < in; ++i) {
          sum +=
              of_x.At(place / out_features * in + i) * of_weight.At(place % out_features * in + i);
        }
        return adds ? 2 * sum : sum;
      }));
  const auto out_bytes =
      static_cast<double>(tokens * out_features * Info(out_type).block_bytes) * (adds ? 2 : 1);
  const double bytes = weight_bytes + static_cast<double>(tokens * in) * element + out_bytes;
  Time({name, absl::StrCat(tokens, " tokens, ", Dimensions(out_features, in)), 0, bytes,
        2 * static_cast<double>(tokens * in) * static_cast<double>(out_features)},
       sets, [&](int64_t i) {
         const Tensor& weight = weights[static_cast<size_t>(i)];
         adds ? backend_.ops().LinearAdd(x, weight, out) : backend_.ops().Linear(x, weight, out);
       });
  return absl::OkStatus();
}

// A batch over paged keys and values: block tables one behind the other.
struct KernelBench::Attention {
  HeadLayout heads;
  Values of_qkv = {7, 1};
  Values of_kv = {8, 1};
  int64_t context = 0;
  Tensor qkv, row_starts, context_lens, block_tables;
  std::vector<Tensor> kv;

  AttentionArgs Args(int64_t set, const Tensor& out) const {
    return {qkv, row_starts, context_lens, block_tables, heads, kv[static_cast<size_t>(set)], out};
  }
};

absl::Status KernelBench::MakeAttention(int64_t rows, int64_t tokens_each, int64_t context,
                                        Attention* attention) {
  attention->heads = {config_.num_heads, config_.num_kv_heads, config_.head_dim};
  attention->context = context;
  const int64_t blocks = BlocksFor(context);
  const Shape kv({rows * blocks, 2, config_.num_kv_heads, kBlockSize, config_.head_dim});
  const double kv_bytes = static_cast<double>(kv.num_elements()) *
                          static_cast<double>(Info(backend_.precision()).block_bytes);
  PENSTOCK_ASSIGN_OR_RETURN(attention->qkv,
                            Place(attention->of_qkv, {rows * tokens_each, config_.qkv_size()}));
  PENSTOCK_ASSIGN_OR_RETURN(attention->kv, PlaceMany(attention->of_kv, kv, SetsOf(kv_bytes)));
  const auto make = [&](const Shape& shape, Tensor* tensor,
                        const std::function<int64_t(int64_t)>& value) -> absl::Status {
    PENSTOCK_ASSIGN_OR_RETURN(const Tensor host,
                              Tensor::Make(DataType::kI32, shape, backend_.inputs()));
    const TensorWrapper<int32_t> values(host);
    for (int64_t i = 0; i < shape.num_elements(); ++i) values[i] = static_cast<int32_t>(value(i));
    backend_.SendInputs({&host, 1});
    *tensor = host;
    return absl::OkStatus();
  };
  PENSTOCK_RETURN_IF_ERROR(
      make({rows + 1}, &attention->row_starts, [&](int64_t i) { return i * tokens_each; }));
  PENSTOCK_RETURN_IF_ERROR(
      make({rows}, &attention->context_lens, [&](int64_t) { return context; }));
  return make({rows, blocks}, &attention->block_tables, [](int64_t i) { return i; });
}

// Some heads of the last token of some rows, over keys and values as they were placed; what the
// step itself brings comes from qkv.
absl::Status KernelBench::CheckAttention(const std::string& kernel, const Attention& attention,
                                         int64_t tokens_each, const Tensor& out) {
  const HeadLayout& heads = attention.heads;
  const int64_t dim = config_.head_dim;
  const int64_t width = config_.qkv_size();
  const int64_t blocks = BlocksFor(attention.context);
  const int64_t group = config_.num_heads / config_.num_kv_heads;
  const auto kv_at = [&](int64_t row, int64_t position, int64_t kv_head, bool value, int64_t i) {
    const int64_t before = attention.context - tokens_each;
    if (position >= before) {
      const int64_t column = config_.q_size() + (value ? config_.kv_size() : 0) + kv_head * dim + i;
      return attention.of_qkv.At((row * tokens_each + position - before) * width + column);
    }
    const int64_t block = row * blocks + position / kBlockSize;
    return attention.of_kv.At(
        (((block * 2 + (value ? 1 : 0)) * config_.num_kv_heads + kv_head) * kBlockSize +
         position % kBlockSize) *
            dim +
        i);
  };
  std::vector<int64_t> places;
  const int64_t rows = attention.context_lens.dim(0);
  for (int64_t row = 0; row < std::min<int64_t>(rows, 2); ++row) {
    const int64_t token = (row + 1) * tokens_each - 1;
    for (int64_t i = 0; i < dim; i += dim / 4) {
      places.push_back(token * heads.q_size() + (row * 5 % config_.num_heads) * dim + i);
    }
  }
  return Check(
      kernel, out,
      [&](const Tensor& to) {
        if (tokens_each == 1) return backend_.ops().DecoderAttention(attention.Args(0, to));
        backend_.ops().FlashAttention(attention.Args(0, to));
      },
      places,
      [&](int64_t place) {
        const int64_t token = place / heads.q_size();
        const int64_t row = token / tokens_each;
        const int64_t head = place % heads.q_size() / dim;
        double most = -INFINITY;
        std::vector<double> scores;
        for (int64_t position = 0; position < attention.context; ++position) {
          double score = 0;
          for (int64_t i = 0; i < dim; ++i) {
            score += attention.of_qkv.At(token * width + head * dim + i) *
                     kv_at(row, position, head / group, false, i);
          }
          scores.push_back(score / std::sqrt(static_cast<double>(dim)));
          most = std::max(most, scores.back());
        }
        double sum = 0;
        double mixed = 0;
        for (int64_t position = 0; position < attention.context; ++position) {
          const double weight = std::exp(scores[static_cast<size_t>(position)] - most);
          sum += weight;
          mixed += weight * kv_at(row, position, head / group, true, place % dim);
        }
        return mixed / sum;
      });
}

absl::Status KernelBench::RunDecode(int64_t batch, int64_t context) {
  Attention attention;
  PENSTOCK_RETURN_IF_ERROR(MakeAttention(batch, 1, context, &attention));
  for (Tensor* tensor : {&attention.row_starts, &attention.context_lens, &attention.block_tables}) {
    *tensor = backend_.KernelView(*tensor);
  }
  PENSTOCK_ASSIGN_OR_RETURN(const Tensor out,
                            MakeOut({batch, config_.q_size()}, backend_.precision()));
  PENSTOCK_RETURN_IF_ERROR(CheckAttention("decoder_attention", attention, 1, out));
  const double bytes = 2 * static_cast<double>(batch * context * config_.kv_size()) *
                       static_cast<double>(Info(backend_.precision()).block_bytes);
  Time({"decoder_attention", Dimensions(batch, context), 0, bytes, 0},
       static_cast<int64_t>(attention.kv.size()),
       [&](int64_t i) { backend_.ops().DecoderAttention(attention.Args(i, out)); });
  return absl::OkStatus();
}

absl::Status KernelBench::RunPrefill(int64_t tokens) {
  Attention attention;
  PENSTOCK_RETURN_IF_ERROR(MakeAttention(1, tokens, tokens, &attention));
  PENSTOCK_ASSIGN_OR_RETURN(const Tensor slots,
                            Tensor::Make(DataType::kI64, {tokens}, backend_.inputs()));
  const TensorWrapper<int64_t> slot(slots);
  std::iota(slot.data(), slot.data() + tokens, int64_t{0});
  backend_.SendInputs({&slots, 1});
  for (Tensor* tensor : {&attention.row_starts, &attention.context_lens, &attention.block_tables}) {
    *tensor = backend_.KernelView(*tensor);
  }
  for (const Tensor& kv : attention.kv) {
    backend_.ops().ConcatKv(attention.qkv, backend_.KernelView(slots), attention.heads, kv);
  }
  PENSTOCK_ASSIGN_OR_RETURN(const Tensor out,
                            MakeOut({tokens, config_.q_size()}, backend_.precision()));
  PENSTOCK_RETURN_IF_ERROR(CheckAttention("flash_attention", attention, tokens, out));
  const auto count = static_cast<double>(tokens);
  const double flops = 4 * count * (count + 1) / 2 * static_cast<double>(config_.q_size());
  const double bytes = count * static_cast<double>(config_.qkv_size() + config_.q_size()) *
                       static_cast<double>(Info(backend_.precision()).block_bytes);
  Time({"flash_attention", absl::StrCat(tokens, " tokens, causal"), 0, bytes, flops},
       static_cast<int64_t>(attention.kv.size()),
       [&](int64_t i) { backend_.ops().FlashAttention(attention.Args(i, out)); });
  return absl::OkStatus();
}

}  // namespace penstock
