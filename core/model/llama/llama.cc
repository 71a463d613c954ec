#include "core/model/llama/llama.h"

#include <optional>

#include "core/base/check.h"
#include "core/model/llama/padded_attention.h"
#include "core/model/rope_frequencies.h"

namespace penstock {
namespace {

class Llama final : public Model {
 public:
  Llama(const ModelConfig& config, LlamaWeight weight, Ops& ops)
      : config_(config),
        heads_{config.num_heads, config.num_kv_heads, config.head_dim},
        frequencies_(RopeFrequencies(config)),
        weight_(std::move(weight)),
        ops_(ops) {}

  absl::Status MakeWorkspace(const ModelLimits& limits, BaseAllocator& allocator, Tensor residual);

  void Forward(const StepBatch& batch, const KvCache& cache) override;
  Tensor Residual(int64_t num_tokens) override { return residual_.Slice(0, num_tokens); }
  Tensor Logits(const Tensor& tokens) override;
  Tensor LogitRows(int64_t n) override { return logits_.Slice(0, n); }
  int64_t weight_bytes() const override { return weight_.bytes(); }

 private:
  bool is_first() const { return weight_.layers_range.first == 0; }
  bool is_last() const { return weight_.layers_range.last == config_.num_layers; }
  // What bias_rope is told of `qkv`, rows of this layer that begin at `token` of the step. Borrows.
  BiasRopeArgs BiasRope(const AttentionWeight& weight, const Tensor& qkv,
                        const Tensor& rope) const {
    return {qkv,  weight.qkv_bias, weight.q_norm.gain, weight.k_norm.gain, config_.rms_norm_eps,
            rope, heads_};
  }
  void ContextAttention(const StepBatch& batch, const AttentionWeight& weight, const Tensor& kv);
  void DecoderSelfAttention(const StepBatch& batch, const AttentionWeight& weight,
                            const Tensor& kv);
  // What stands between one block's mixing and the next one's: the product that ends the one, the
  // norm, the product that begins the other.
  void Ffn(const LayerWeight& layer, const Tensor& mixed, const Tensor& x);
  void NextQkv(const LayerWeight& layer, const LayerWeight& next, const Tensor& x);
  // The parts of NextQkv at both ends of a stage.
  void FirstQkv(const Tensor& x);
  void LastAdd(const Tensor& x);
  AddNormArgs QkvJoint(const LayerWeight& layer, const LayerWeight& next, const Tensor& x) const {
    const int64_t tokens = x.dim(0);
    return {gated_.Slice(0, tokens), layer.ffn.down,       x,
            next.input_norm.gain,    config_.rms_norm_eps, norm_.Slice(0, tokens)};
  }
  void Linear(const Tensor& x, const PackedWeight& weight, const Tensor& out);

  const ModelConfig config_;
  const HeadLayout heads_;
  const std::vector<float> frequencies_;  // [head_dim / 2], of RoPE
  const LlamaWeight weight_;
  Ops& ops_;

  std::optional<PaddedAttention> padded_;  // if the limits ask for it

  // Workspace, rows for the largest batch; a step uses the first num_tokens of each.
  // f32 in every precision: of what each layer adds, nothing is lost to rounding.
  Tensor residual_;   // [max_tokens, hidden] f32
  Tensor norm_;       // [max_tokens, hidden]
  Tensor rope_;       // [max_tokens, head_dim] f32: cosines and sines of the step's positions
  Tensor qkv_;        // [max_tokens, q + k + v]
  Tensor attention_;  // [max_tokens, q]
  Tensor gate_up_;    // [max_tokens, 2 * intermediate]
  Tensor gated_;      // [max_tokens, intermediate]
  Tensor last_;       // [max_samples, hidden], last stage
  Tensor logits_;     // [max_samples, vocab] f32, last stage
};

absl::Status Llama::MakeWorkspace(const ModelLimits& limits, BaseAllocator& allocator,
                                  Tensor residual) {
  const auto make_as = [&](DataType type, Tensor& tensor, int64_t rows,
                           int64_t columns) -> absl::Status {
    PENSTOCK_ASSIGN_OR_RETURN(tensor, Tensor::Make(type, {rows, columns}, allocator));
    return absl::OkStatus();
  };
  const auto make = [&](Tensor& tensor, int64_t rows, int64_t columns) {
    return make_as(limits.precision, tensor, rows, columns);
  };
  const int64_t tokens = limits.max_tokens;
  residual_ = std::move(residual);
  if (residual_.empty()) {
    PENSTOCK_RETURN_IF_ERROR(make_as(DataType::kF32, residual_, tokens, config_.hidden_size));
  }
  PENSTOCK_CHECK_EQ(Name(residual_.type()), Name(DataType::kF32));
  PENSTOCK_CHECK(residual_.dim(0) == tokens && residual_.dim(1) == config_.hidden_size);
  PENSTOCK_RETURN_IF_ERROR(make(norm_, tokens, config_.hidden_size));
  PENSTOCK_RETURN_IF_ERROR(make_as(DataType::kF32, rope_, tokens, config_.head_dim));
  PENSTOCK_RETURN_IF_ERROR(make(qkv_, tokens, config_.qkv_size()));
  PENSTOCK_RETURN_IF_ERROR(make(attention_, tokens, config_.q_size()));
  PENSTOCK_RETURN_IF_ERROR(make(gate_up_, tokens, 2 * config_.intermediate_size));
  PENSTOCK_RETURN_IF_ERROR(make(gated_, tokens, config_.intermediate_size));
  if (is_last()) {
    PENSTOCK_RETURN_IF_ERROR(make(last_, limits.max_samples, config_.hidden_size));
    PENSTOCK_RETURN_IF_ERROR(
        make_as(DataType::kF32, logits_, limits.max_samples, config_.vocab_size));
  }
  if (limits.prefill_attention == PrefillAttention::kPadded) {
    PENSTOCK_ASSIGN_OR_RETURN(padded_, PaddedAttention::Make(config_, limits, allocator));
  }
  return absl::OkStatus();
}

void Llama::Forward(const StepBatch& batch, const KvCache& cache) {
  const int64_t tokens = batch.num_tokens();
  const float eps = config_.rms_norm_eps;
  const Tensor x = Residual(tokens);                 // [num_tokens, hidden]
  const Tensor norm = norm_.Slice(0, tokens);        // [num_tokens, hidden]
  const Tensor mixed = attention_.Slice(0, tokens);  // [num_tokens, q]

  ops_.RopeTable(frequencies_, batch.positions, rope_.Slice(0, tokens));
  if (is_first()) ops_.Embedding(batch.token_ids, weight_.embedding.table, x);
  const std::vector<LayerWeight>& layers = weight_.layers;
  FirstQkv(x);
  for (size_t i = 0; i < layers.size(); ++i) {
    const Tensor& kv = cache.layer(static_cast<int64_t>(i));
    ContextAttention(batch, layers[i].attention, kv);
    DecoderSelfAttention(batch, layers[i].attention, kv);
    Ffn(layers[i], mixed, x);
    if (i + 1 < layers.size()) {
      NextQkv(layers[i], layers[i + 1], x);
    } else {
      LastAdd(x);
    }
  }
  if (is_last()) ops_.RmsNorm(x, weight_.norm.gain, eps, norm);
}

Tensor Llama::Logits(const Tensor& tokens) {
  const int64_t count = tokens.dim(0);
  const Tensor last = last_.Slice(0, count);  // [n, hidden]
  const Tensor logits = LogitRows(count);     // [n, vocab]
  ops_.Embedding(tokens, norm_, last);        // the tokens' rows of the last norm
  ops_.Linear(last, weight_.lm_head, logits);
  return logits;
}

// Rows that feed several tokens: a prompt or a chunk of it.
void Llama::ContextAttention(const StepBatch& batch, const AttentionWeight& weight,
                             const Tensor& kv) {
  const int64_t rows = batch.num_prefill_rows;
  const int64_t tokens = batch.num_prefill_tokens;
  if (rows == 0) return;
  const Tensor qkv = qkv_.Slice(0, tokens);          // [num_prefill_tokens, q + k + v]
  const Tensor rope = rope_.Slice(0, tokens);        // [num_prefill_tokens, head_dim]
  const Tensor mixed = attention_.Slice(0, tokens);  // [num_prefill_tokens, q]
  if (padded_) {
    padded_->Run(batch, BiasRope(weight, qkv, rope), kv, mixed, ops_);
    return;
  }
  ops_.RopeConcatKv(BiasRope(weight, qkv, rope), batch.kv_slots.Slice(0, tokens), kv);
  ops_.FlashAttention({qkv, batch.row_starts.Slice(0, rows + 1), batch.context_lens.Slice(0, rows),
                       batch.block_tables.Slice(0, rows), heads_, kv, mixed,
                       config_.sliding_window});
}

// Rows that feed one token.
void Llama::DecoderSelfAttention(const StepBatch& batch, const AttentionWeight& weight,
                                 const Tensor& kv) {
  const int64_t first = batch.num_prefill_rows;
  const int64_t rows = batch.num_rows() - first;
  if (rows == 0) return;
  const int64_t token = batch.num_prefill_tokens;
  const Tensor qkv = qkv_.Slice(token, rows);    // [num_rows, q + k + v]
  const Tensor rope = rope_.Slice(token, rows);  // [num_rows, head_dim]
  ops_.RopeDecoderAttention(
      BiasRope(weight, qkv, rope),
      {qkv, batch.row_starts.Slice(first, rows + 1), batch.context_lens.Slice(first, rows),
       batch.block_tables.Slice(first, rows), heads_, kv, attention_.Slice(token, rows),
       config_.sliding_window});
}

// Attention's output and the first products of the FFN: gated.
void Llama::Ffn(const LayerWeight& layer, const Tensor& mixed, const Tensor& x) {
  const int64_t tokens = x.dim(0);
  const Tensor gate_up = gate_up_.Slice(0, tokens);  // [num_tokens, 2 * intermediate]
  const Tensor gated = gated_.Slice(0, tokens);      // [num_tokens, intermediate]
  const AddNormArgs add = {mixed,
                           layer.attention.output,
                           x,
                           layer.post_attention_norm.gain,
                           config_.rms_norm_eps,
                           norm_.Slice(0, tokens)};
  const PackedWeight& weight = layer.ffn.gate_up;
  if (weight.tensors.size() == 1) {
    return ops_.AddNormGatedLinear(add, weight.tensors[0], gate_up, gated);
  }
  ops_.AddNorm(add);
  Linear(add.norm, weight, gate_up);
  ops_.Swiglu(gate_up, gated);
}

// The FFN's last product and the next layer's first: qkv.
void Llama::NextQkv(const LayerWeight& layer, const LayerWeight& next, const Tensor& x) {
  const AddNormArgs add = QkvJoint(layer, next, x);
  const PackedWeight& weight = next.attention.qkv;
  const Tensor qkv = qkv_.Slice(0, x.dim(0));  // [num_tokens, q + k + v]
  if (weight.tensors.size() == 1) return ops_.AddNormLinear(add, weight.tensors[0], qkv);
  ops_.AddNorm(add);
  Linear(add.norm, weight, qkv);
}

// Of the first layer, what is ahead of it is the embedding; of a stage's, the layer before.
void Llama::FirstQkv(const Tensor& x) {
  const LayerWeight& layer = weight_.layers.front();
  const AddNormArgs add = QkvJoint(layer, layer, x);
  const PackedWeight& weight = layer.attention.qkv;
  const Tensor qkv = qkv_.Slice(0, x.dim(0));  // [num_tokens, q + k + v]
  if (!is_first() && weight.tensors.size() == 1) {
    return ops_.NormLinearOfAdd(add, weight.tensors[0], qkv);
  }
  ops_.RmsNorm(x, add.gain, add.eps, add.norm);
  Linear(add.norm, weight, qkv);
}

void Llama::LastAdd(const Tensor& x) {
  const LayerWeight& layer = weight_.layers.back();
  const AddNormArgs add = QkvJoint(layer, layer, x);
  const PackedWeight& weight = layer.attention.qkv;
  if (!is_last() && weight.tensors.size() == 1) {
    return ops_.AddOfNormLinear(add, weight.tensors[0]);
  }
  ops_.LinearAdd(add.x, add.weight, x);
}

// One product a tensor: a single one but in files of mixed quantization.
void Llama::Linear(const Tensor& x, const PackedWeight& weight, const Tensor& out) {
  int64_t column = 0;
  for (const Tensor& tensor : weight.tensors) {
    ops_.Linear(x, tensor, out.Columns(column, tensor.dim(0)));
    column += tensor.dim(0);
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<Model>> MakeLlama(const ModelConfig& config, LlamaWeight weight,
                                                 const ModelLimits& limits, Ops& ops,
                                                 BaseAllocator& allocator, Tensor residual) {
  PENSTOCK_CHECK(!weight.layers.empty());
  auto llama = std::make_unique<Llama>(config, std::move(weight), ops);
  PENSTOCK_RETURN_IF_ERROR(llama->MakeWorkspace(limits, allocator, std::move(residual)));
  return llama;
}

}  // namespace penstock
