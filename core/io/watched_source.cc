#include "core/io/watched_source.h"

#include "core/base/hash64.h"

namespace penstock {

absl::StatusOr<Tensor> WatchedSource::Get(std::string_view name, const Shape& expected) const {
  Tell(name, expected);
  PENSTOCK_ASSIGN_OR_RETURN(Tensor tensor, source_.Get(name, expected));
  PENSTOCK_RETURN_IF_ERROR(Compare(name, tensor));
  return tensor;
}

absl::StatusOr<WeightStream> WatchedSource::Open(std::string_view name,
                                                 const Shape& expected) const {
  Tell(name, expected);
  if (hashes_ == nullptr) return source_.Open(name, expected);
  PENSTOCK_ASSIGN_OR_RETURN(Tensor tensor, source_.Get(name, expected));
  PENSTOCK_RETURN_IF_ERROR(Compare(name, tensor));
  return WeightStream::Of(std::move(tensor));
}

// Told before the work on it: what was asked for earlier has been packed by now, all but the two
// weights or so that a place reads while it takes the next.
void WatchedSource::Tell(std::string_view name, const Shape& expected) const {
  if (callback_) callback_(name, done_);
  done_ += expected.num_elements();
}

absl::Status WatchedSource::Compare(std::string_view name, const Tensor& tensor) const {
  if (hashes_ == nullptr) return absl::OkStatus();
  const auto hash = hashes_->find(std::string(name));
  if (hash == hashes_->end()) {
    return absl::NotFoundError(absl::StrCat(
        "the check file has no hash of the tensor ", Abs(name),
        ": it is another model's, or incomplete; write it with penstock inspect --write-check"));
  }
  const uint64_t found = Hash64(tensor.raw(), tensor.bytes());
  if (found != hash->second) {
    return absl::DataLossError(absl::StrCat(
        "the bytes of the tensor ", Abs(name), " hash to ", absl::Hex(found, absl::kZeroPad16),
        ", the check file says ", absl::Hex(hash->second, absl::kZeroPad16),
        ": the model is damaged or has been changed since the check file was written; fetch it "
        "again"));
  }
  return absl::OkStatus();
}

}  // namespace penstock
