// Writes a model as a Hugging Face folder: config.json and safetensors, whole or in shards, its
// weights dequantized. For tests that hold one format against another.
#pragma once

#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "core/io/tensor_names.h"
#include "core/io/weight_source.h"
#include "core/tensor/dequantize.h"
#include "tests/support/safetensors_builder.h"

namespace penstock::testing {

struct HfCopyOptions {
  DataType type = DataType::kF32;  // or bf16
  bool round_to_bf16 = false;      // f32 values that bf16 can hold
  int shards = 1;
};

inline std::string HfConfigText(const ModelConfig& config) {
  PENSTOCK_CHECK(config.architecture == "llama");
  PENSTOCK_CHECK(config.rope_scaling.type == RopeScaling::Type::kNone);
  std::string text = R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama")";
  const std::pair<const char*, int64_t> sizes[] = {
      {"hidden_size", config.hidden_size},
      {"intermediate_size", config.intermediate_size},
      {"num_hidden_layers", config.num_layers},
      {"num_attention_heads", config.num_heads},
      {"num_key_value_heads", config.num_kv_heads},
      {"head_dim", config.head_dim},
      {"vocab_size", config.vocab_size},
      {"max_position_embeddings", config.context_length}};
  for (const auto& [key, value] : sizes) absl::StrAppend(&text, ", \"", key, "\": ", value);
  char floats[100];
  std::snprintf(floats, sizeof(floats), R"(, "rms_norm_eps": %.9g, "rope_theta": %.9g)",
                static_cast<double>(config.rms_norm_eps), static_cast<double>(config.rope_theta));
  return absl::StrCat(text, floats, R"(, "tie_word_embeddings": )",
                      config.tied_embeddings ? "true" : "false", "}");
}

// The tensor's values as the file is to have them, rows of q and k in the order of Hugging Face.
inline std::vector<float> HfValues(const ModelConfig& config, const WeightSource& source,
                                   const TensorInfo& info) {
  const auto tensor = source.Get(info.name, info.shape);
  PENSTOCK_CHECK(tensor.ok());
  std::vector<float> values(static_cast<size_t>(tensor->num_elements()));
  Dequantize(tensor->type(), tensor->raw(), tensor->num_elements(), values.data());
  source.Forget(*tensor);
  const bool turned = info.name.ends_with("q_proj.weight") || info.name.ends_with("k_proj.weight");
  if (!turned || source.rope_rows() == WeightSource::RopeRows::kHalves) return values;
  std::vector<float> halves(values.size());
  const int64_t columns = info.shape[1];
  const int64_t half = config.head_dim / 2;
  for (int64_t row = 0; row < info.shape[0]; ++row) {
    const int64_t in_head = row % config.head_dim;
    const int64_t to = row - in_head + in_head / 2 + (in_head % 2) * half;
    std::copy_n(values.begin() + row * columns, columns, halves.begin() + to * columns);
  }
  return halves;
}

// One file with these tensors.
inline void WriteSafetensors(const std::string& path, const ModelConfig& config,
                             const WeightSource& source, const std::vector<TensorInfo>& infos,
                             const HfCopyOptions& options) {
  const bool bf16 = options.type == DataType::kBF16;
  SafetensorsBuilder header;
  int64_t end = 0;
  for (const TensorInfo& info : infos) {
    std::string dims;
    for (int i = 0; i < info.shape.rank(); ++i) {
      absl::StrAppend(&dims, i == 0 ? "" : ",", info.shape[i]);
    }
    const int64_t begin = end;
    end += info.shape.num_elements() * Info(options.type).block_bytes;
    header.Entry(HfTensorName(info.name),
                 absl::StrCat(R"({"dtype":")", bf16 ? "BF16" : "F32", R"(","shape":[)", dims,
                              R"(],"data_offsets":[)", begin, ",", end, "]}"));
  }
  std::ofstream file(path, std::ios::binary);
  const auto write = [&](const void* data, size_t bytes) {
    file.write(static_cast<const char*>(data), static_cast<std::streamsize>(bytes));
  };
  const std::vector<uint8_t> head = header.Build();
  write(head.data(), head.size());
  for (const TensorInfo& info : infos) {
    std::vector<float> values = HfValues(config, source, info);
    if (bf16 || options.round_to_bf16) {
      std::vector<uint16_t> rounded(values.size());
      std::transform(values.begin(), values.end(), rounded.begin(), FloatToBFloat16);
      if (bf16) {
        write(rounded.data(), rounded.size() * sizeof(uint16_t));
        continue;
      }
      const auto count = static_cast<int64_t>(rounded.size());
      Dequantize(DataType::kBF16, rounded.data(), count, values.data());
    }
    write(values.data(), values.size() * sizeof(float));
  }
  PENSTOCK_CHECK(file.good());
}

// config.json and the weights of the layers that `config` has.
inline void WriteHfFolder(const TempFolder& folder, const ModelConfig& config,
                          const WeightSource& source, const HfCopyOptions& options) {
  folder.Write("config.json", HfConfigText(config));
  std::vector<TensorInfo> infos = source.Tensors();
  std::erase_if(infos, [&](const TensorInfo& info) { return !IsTensorOf(config, info.name); });
  if (options.shards == 1) {
    WriteSafetensors(folder.Path("model.safetensors"), config, source, infos, options);
    return;
  }
  std::map<std::string, std::vector<TensorInfo>> shards;
  std::string map;
  for (size_t i = 0; i < infos.size(); ++i) {
    const std::string shard = absl::StrCat("model-", i % static_cast<size_t>(options.shards) + 1,
                                           "-of-", options.shards, ".safetensors");
    absl::StrAppend(&map, i == 0 ? "" : ", ", "\"", HfTensorName(infos[i].name), "\": \"", shard,
                    "\"");
    shards[shard].push_back(infos[i]);
  }
  folder.Write("model.safetensors.index.json",
               absl::StrCat(R"({"metadata": {}, "weight_map": {)", map, "}}"));
  for (const auto& [name, part] : shards) {
    WriteSafetensors(folder.Path(name), config, source, part, options);
  }
}

}  // namespace penstock::testing
