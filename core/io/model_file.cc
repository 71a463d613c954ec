#include "core/io/model_file.h"

#include <algorithm>
#include <filesystem>

#include "core/base/quoted.h"
#include "core/io/dummy_model.h"
#include "core/io/dummy_weights.h"
#include "core/io/gguf.h"
#include "core/io/hf_config.h"
#include "core/io/safetensors_weights.h"
#include "core/io/tokenizer_folder.h"

namespace penstock {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kDummySeed = 1;

enum class Format { kGguf, kFolder, kDummy };

// A folder that is no Hugging Face model, or a file of one.
absl::Status NotAFolderOfAModel(const std::string& folder) {
  std::error_code error;
  std::string other;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    if (entry.path().extension() == ".gguf") {
      other = absl::StrCat(", but ", Quoted(entry.path().filename().string()),
                           ": give the path of that file");
      break;
    }
  }
  return absl::NotFoundError(absl::StrCat(
      folder, ": is a folder without a config.json", other,
      other.empty() ? "; the folder of a Hugging Face model has one, or give a .gguf file" : ""));
}

absl::StatusOr<Format> FindFormat(const std::string& path) {
  if (path.starts_with(kDummyPrefix)) return Format::kDummy;
  std::error_code error;
  const fs::path place(path);
  if (fs::is_directory(place, error)) {
    if (fs::exists(place / "config.json", error)) return Format::kFolder;
    return NotAFolderOfAModel(path);
  }
  const std::string suffix = place.extension();
  if (suffix == ".bin" || suffix == ".pt" || suffix == ".pth" || suffix == ".ckpt") {
    return absl::InvalidArgumentError(absl::StrCat(
        path,
        ": is a PyTorch checkpoint by its name, which could run code when read; convert the "
        "model to safetensors and give its folder, or to a .gguf file"));
  }
  if (suffix == ".safetensors" || suffix == ".json" || suffix == ".model") {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": is one file of a model by its name; give the folder that it is in"));
  }
  return Format::kGguf;  // whose magic number is looked at
}

absl::StatusOr<DummyModel> OpenDummy(const std::string& path) {
  return FindDummyModel(std::string_view(path).substr(kDummyPrefix.size()));
}

}  // namespace

absl::StatusOr<ModelFile> OpenModel(const std::string& path) {
  // Dummy weights have no file that keeps them: they outlive the source that made them.
  static HostAllocator dummy_memory;
  ModelFile model;
  PENSTOCK_ASSIGN_OR_RETURN(const Format format, FindFormat(path));
  if (format == Format::kDummy) {
    PENSTOCK_ASSIGN_OR_RETURN(DummyModel dummy, OpenDummy(path));
    model.weights = MakeDummyWeightSource(kDummySeed, dummy.config, dummy.type, dummy_memory);
    model.config = std::move(dummy.config);
  } else if (format == Format::kFolder) {
    PENSTOCK_ASSIGN_OR_RETURN(model.config, ReadHfConfig(path));
    PENSTOCK_ASSIGN_OR_RETURN(model.weights, OpenSafetensors(path, model.config));
  } else {
    PENSTOCK_ASSIGN_OR_RETURN(std::shared_ptr<const GgufFile> file, GgufFile::Open(path));
    PENSTOCK_ASSIGN_OR_RETURN(model.config, ReadGgufConfig(*file));
    model.weights = MakeGgufWeightSource(std::move(file));
  }
  return model;
}

absl::StatusOr<ModelTokenizer> OpenTokenizer(const std::string& path) {
  ModelTokenizer result;
  PENSTOCK_ASSIGN_OR_RETURN(const Format format, FindFormat(path));
  if (format == Format::kDummy) {
    PENSTOCK_ASSIGN_OR_RETURN(DummyModel dummy, OpenDummy(path));
    result.config = std::move(dummy.config);
    result.spec = MakeDummyTokenizer(result.config.vocab_size);
    return result;
  }
  if (format == Format::kFolder) {
    PENSTOCK_ASSIGN_OR_RETURN(result.config, ReadHfConfig(path));
    PENSTOCK_ASSIGN_OR_RETURN(result.spec, ReadTokenizerFolder(path, result.config.vocab_size));
  } else {
    PENSTOCK_ASSIGN_OR_RETURN(const std::shared_ptr<const GgufFile> file, GgufFile::Open(path));
    PENSTOCK_ASSIGN_OR_RETURN(result.config, ReadGgufConfig(*file));
    PENSTOCK_ASSIGN_OR_RETURN(result.spec, ReadGgufTokenizer(*file, result.config.vocab_size));
  }
  return result;
}

}  // namespace penstock
