#include "core/io/safetensors_weights.h"

#include <algorithm>
#include <filesystem>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "core/base/quoted.h"
#include "core/io/json.h"
#include "core/io/safetensors.h"
#include "core/io/tensor_names.h"

namespace penstock {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kSingle = "model.safetensors";
constexpr std::string_view kIndex = "model.safetensors.index.json";
constexpr std::string_view kSuffix = ".safetensors";

using Shard = std::shared_ptr<const SafetensorsFile>;

class SafetensorsSource final : public WeightSource {
 public:
  SafetensorsSource(std::string folder, const ModelConfig& config)
      : folder_(std::move(folder)), config_(config) {}

  // Takes in a shard's tensors under their canonical names.
  absl::Status Add(const Shard& shard);

  bool Contains(std::string_view name) const override { return tensors_.contains(Abs(name)); }

  absl::StatusOr<Tensor> Get(std::string_view name, const Shape& expected) const override {
    const auto place = tensors_.find(Abs(name));
    if (place == tensors_.end()) {
      return absl::NotFoundError(absl::StrCat(
          folder_, ": there is no tensor ", Quoted(HfTensorName(name)),
          "; from config.json one of the shape ", expected.ToString(), " is expected"));
    }
    const SafetensorsFile& shard = *place->second;
    PENSTOCK_ASSIGN_OR_RETURN(Tensor tensor, shard.GetTensor(HfTensorName(name)));
    if (!(tensor.shape() == expected)) {
      return absl::InvalidArgumentError(absl::StrCat(
          shard.path(), ": tensor ", Quoted(HfTensorName(name)), " has the shape ",
          tensor.shape().ToString(), "; from config.json ", expected.ToString(), " is expected"));
    }
    return tensor;
  }

  absl::StatusOr<WeightStream> Open(std::string_view name, const Shape& expected) const override {
    PENSTOCK_ASSIGN_OR_RETURN(Tensor tensor, Get(name, expected));
    return WeightStream::OfFile(tensors_.find(Abs(name))->second->file(), std::move(tensor));
  }

  std::vector<TensorInfo> Tensors() const override {
    std::vector<TensorInfo> infos;
    for (const auto& [name, shard] : tensors_) {
      auto info = shard->Describe(HfTensorName(name));
      if (info.ok()) infos.push_back({name, info->type, info->shape});
    }
    std::sort(infos.begin(), infos.end(),
              [](const TensorInfo& a, const TensorInfo& b) { return a.name < b.name; });
    return infos;
  }

  RopeRows rope_rows() const override { return RopeRows::kHalves; }

  void Forget(const Tensor& tensor) const override {
    for (const Shard& shard : shards_) shard->Forget(tensor);
  }

 private:
  // Tensors that some writers leave in the file and that change nothing: RoPE's frequencies, which
  // follow from config.json, and the LM head of a model that is said to use the embedding table.
  bool IsHarmless(std::string_view name) const {
    return name.ends_with("rotary_emb.inv_freq") ||
           (config_.tied_embeddings && name == "lm_head.weight");
  }

  const std::string folder_;
  const ModelConfig config_;
  std::vector<Shard> shards_;
  absl::flat_hash_map<std::string, Shard> tensors_;  // by canonical name
};

absl::Status SafetensorsSource::Add(const Shard& shard) {
  shards_.push_back(shard);
  for (const std::string_view name : shard->TensorNames()) {
    if (IsHarmless(name)) continue;
    const auto canonical = FromHfTensorName(name);
    if (!canonical || !IsTensorOf(config_, *canonical)) {
      return absl::UnimplementedError(absl::StrCat(
          shard->path(), ": tensor ", Quoted(name), " cannot be used: by config.json this is a ",
          config_.architecture, " model of ", config_.num_layers,
          " layers, and no such model that is supported here has a tensor of that name"));
    }
    PENSTOCK_RETURN_IF_ERROR(shard->Describe(name).status());
    if (!tensors_.try_emplace(std::string(*canonical), shard).second) {
      return absl::InvalidArgumentError(
          absl::StrCat(shard->path(), ": tensor ", Quoted(name),
                       " is in another file of the folder too; each name is expected once"));
    }
  }
  return absl::OkStatus();
}

// What the index says: the shard of each tensor, sorted by shard.
class ShardIndex {
 public:
  absl::Status Read(const std::string& folder) {
    path_ = fs::path(folder) / kIndex;
    PENSTOCK_ASSIGN_OR_RETURN(const auto document, JsonDocument::Open(path_));
    PENSTOCK_ASSIGN_OR_RETURN(const JsonValue map, document->root().Get("weight_map"));
    PENSTOCK_RETURN_IF_ERROR(map.CheckObject());
    if (map.size() == 0) return map.Unexpected("the shard of each tensor");
    for (int64_t i = 0; i < map.size(); ++i) {
      PENSTOCK_ASSIGN_OR_RETURN(const std::string_view shard, map.at(i).AsString());
      // Only a name beside the index: a downloaded file must not point anywhere else. And a plain
      // one, for messages show paths as they are.
      if (!shard.ends_with(kSuffix) || !std::all_of(shard.begin(), shard.end(), [](char c) {
            return c > 0x20 && c < 0x7f && c != '/' && c != '\\';
          })) {
        return map.at(i).Unexpected("the name of a .safetensors file in the same folder");
      }
      shards_[std::string(shard)].emplace_back(map.at(i).key());
    }
    return absl::OkStatus();
  }

  std::vector<std::string> Shards() const {
    std::vector<std::string> names;
    for (const auto& [shard, tensors] : shards_) names.push_back(shard);
    std::sort(names.begin(), names.end());
    return names;
  }

  // The shard holds what the index says of it, and nothing else.
  absl::Status Check(const SafetensorsFile& shard, const std::string& name) const {
    const auto& tensors = shards_.at(name);
    for (const std::string& tensor : tensors) {
      if (shard.HasTensor(tensor)) continue;
      return absl::InvalidArgumentError(
          absl::StrCat(path_, ": tensor ", Quoted(tensor), " is said to be in ", Quoted(name),
                       ", which does not hold it; fetch the folder again"));
    }
    if (static_cast<int64_t>(tensors.size()) == shard.num_tensors()) return absl::OkStatus();
    for (const std::string_view tensor : shard.TensorNames()) {
      if (std::find(tensors.begin(), tensors.end(), tensor) != tensors.end()) continue;
      return absl::InvalidArgumentError(
          absl::StrCat(shard.path(), ": holds tensor ", Quoted(tensor), ", which ", Quoted(kIndex),
                       " does not look for there; fetch the folder again"));
    }
    return absl::OkStatus();
  }

 private:
  std::string path_;
  absl::flat_hash_map<std::string, std::vector<std::string>> shards_;
};

// What to say of a folder without safetensors.
absl::Status NoWeights(const std::string& folder) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename();
    const std::string suffix = entry.path().extension();
    if (suffix == ".bin" || suffix == ".pt" || suffix == ".pth" || suffix == ".ckpt") {
      return absl::NotFoundError(
          absl::StrCat(folder, ": holds no safetensors but a PyTorch checkpoint (", Quoted(name),
                       "), which could run code when read; convert it to safetensors"));
    }
  }
  return absl::NotFoundError(absl::StrCat(folder, ": there is neither ", Quoted(kSingle), " nor ",
                                          Quoted(kIndex), "; fetch the model's weights"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<WeightSource>> OpenSafetensors(const std::string& folder,
                                                              const ModelConfig& config) {
  auto source = std::make_unique<SafetensorsSource>(folder, config);
  std::error_code error;
  const fs::path single = fs::path(folder) / kSingle;
  if (fs::exists(single, error)) {
    PENSTOCK_ASSIGN_OR_RETURN(const Shard shard, SafetensorsFile::Open(single));
    PENSTOCK_RETURN_IF_ERROR(source->Add(shard));
    return source;
  }
  if (!fs::exists(fs::path(folder) / kIndex, error)) return NoWeights(folder);
  ShardIndex index;
  PENSTOCK_RETURN_IF_ERROR(index.Read(folder));
  for (const std::string& name : index.Shards()) {
    const auto shard = SafetensorsFile::Open(fs::path(folder) / name);
    if (absl::IsNotFound(shard.status())) {
      return absl::NotFoundError(
          absl::StrCat(shard.status().message(), "; ", Abs(kIndex), " names this shard, fetch it"));
    }
    PENSTOCK_RETURN_IF_ERROR(shard.status());
    PENSTOCK_RETURN_IF_ERROR(index.Check(**shard, name));
    PENSTOCK_RETURN_IF_ERROR(source->Add(*shard));
  }
  return source;
}

}  // namespace penstock
