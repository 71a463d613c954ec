#include <algorithm>

#include "core/io/gguf.h"
#include "core/io/gguf_format.h"
#include "core/io/tensor_names.h"

namespace penstock {
namespace {

class GgufWeightSource final : public WeightSource {
 public:
  explicit GgufWeightSource(std::shared_ptr<const GgufFile> file) : file_(std::move(file)) {}

  bool Contains(std::string_view name) const override {
    const auto gguf = GgufTensorName(name);
    return gguf && file_->HasTensor(*gguf);
  }

  absl::StatusOr<Tensor> Get(std::string_view name, const Shape& expected) const override {
    const auto gguf = GgufTensorName(name);
    if (!gguf) {
      return absl::NotFoundError(
          absl::StrCat(file_->path(), ": ", Quoted(name), " is no tensor of a Llama model"));
    }
    PENSTOCK_ASSIGN_OR_RETURN(Tensor tensor, file_->GetTensor(*gguf));
    if (!(tensor.shape() == expected)) {
      return absl::InvalidArgumentError(absl::StrCat(
          file_->path(), ": tensor ", Quoted(*gguf), " has the shape ", tensor.shape().ToString(),
          "; from the file's metadata ", expected.ToString(), " is expected"));
    }
    file_->file()->Prefetch(tensor.raw(), tensor.bytes());
    return tensor;
  }

  absl::StatusOr<WeightStream> Open(std::string_view name, const Shape& expected) const override {
    PENSTOCK_ASSIGN_OR_RETURN(Tensor tensor, Get(name, expected));
    return WeightStream::OfFile(file_->file(), std::move(tensor));
  }

  std::vector<TensorInfo> Tensors() const override {
    std::vector<TensorInfo> infos;
    for (const std::string_view gguf : file_->TensorNames()) {
      auto name = FromGgufTensorName(gguf);
      const auto tensor = file_->GetTensor(gguf);
      if (name && tensor.ok()) infos.push_back({*std::move(name), tensor->type(), tensor->shape()});
    }
    std::sort(infos.begin(), infos.end(),
              [](const TensorInfo& a, const TensorInfo& b) { return a.name < b.name; });
    return infos;
  }

  // The converters reorder the rows of the llama architecture, and of no other.
  RopeRows rope_rows() const override {
    const auto architecture = file_->GetString("general.architecture");
    return architecture.ok() && *architecture == "llama" ? RopeRows::kInterleaved
                                                         : RopeRows::kHalves;
  }

  void Forget(const Tensor& tensor) const override {
    file_->file()->Forget(tensor.raw(), tensor.bytes());
  }

 private:
  std::shared_ptr<const GgufFile> file_;
};

}  // namespace

std::unique_ptr<WeightSource> MakeGgufWeightSource(std::shared_ptr<const GgufFile> file) {
  return std::make_unique<GgufWeightSource>(std::move(file));
}

}  // namespace penstock
