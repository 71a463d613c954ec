#include "worker/token_mailbox.h"

#include "core/base/check.h"
#include "core/tensor/tensor_wrapper.h"

namespace penstock {

TokenMailbox::TokenMailbox(int64_t slots, int64_t depth)
    : slots_(slots), depth_(depth), entries_(static_cast<size_t>(slots * depth)) {}

void TokenMailbox::Reset() { entries_.assign(entries_.size(), Entry()); }

absl::Status TokenMailbox::Put(uint32_t epoch, uint64_t plan, const Tensor& rows,
                               int64_t vocab_size) {
  const TensorWrapper<const int64_t> values(rows);
  PENSTOCK_CHECK_EQ(rows.dim(1), kTokenRowSize);
  for (int64_t i = 0; i < rows.dim(0); ++i) {
    const int64_t* row = values.row(i);
    const bool is_token = row[3] == kVoidToken || (row[3] >= 0 && row[3] < vocab_size);
    if (row[0] < 0 || row[0] >= slots_ || row[1] < 0 || row[1] > int64_t{UINT32_MAX} ||
        row[2] < 0 || !is_token) {
      return absl::FailedPreconditionError(absl::StrCat(
          "the last stage's tokens of plan ", plan, " name slot ", row[0], ", generation ", row[1],
          ", position ", row[2], ", token ", row[3],
          ", which this stage does not have: load all stages with the same model and settings"));
    }
    entries_[Place(row[0], plan)] = {true, epoch, static_cast<uint32_t>(row[1]), row[2],
                                     static_cast<int32_t>(row[3])};
  }
  return absl::OkStatus();
}

int32_t TokenMailbox::Take(uint32_t epoch, const PlanRow& row) const {
  if (row.slot < 0 || row.slot >= slots_) return kVoidToken;
  const Entry& entry = entries_[Place(row.slot, row.token_from)];
  const bool is_the_rows = entry.used && entry.epoch == epoch &&
                           entry.generation == row.generation && entry.position == row.position;
  return is_the_rows ? entry.token : kVoidToken;
}

}  // namespace penstock
