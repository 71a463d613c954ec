// TokenMailbox: the tokens that were sampled last, for the rows that feed them before the front end
// knows them. The first stage looks up what a row feeds; the last one looks up the same in a
// mailbox of its own, filled with the same rows, and so knows the same rows to be void.
//
// A ring by slot and plan number. An entry carries epoch, generation and position, so that what a
// slot's user has left behind is never read by the next. One thread at a time.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/base/status.h"
#include "core/sched/step_plan.h"
#include "core/tensor/tensor.h"

namespace penstock {

// What crosses from the last stage to the first: rows of slot, generation, position, token (i64),
// one a sample of a plan. The token is kVoidToken where the sequence ends there.
inline constexpr int64_t kTokenRowSize = 4;

class TokenMailbox {
 public:
  // `depth`: how many plans an entry outlasts. REQUIRES: both > 0.
  TokenMailbox(int64_t slots, int64_t depth);

  // Whatever was there is forgotten.
  void Reset();

  // Takes in the rows [n, kTokenRowSize] of a plan. Errors: FAILED_PRECONDITION for a row that
  // names no slot, generation, position or token of a vocabulary of `vocab_size`.
  absl::Status Put(uint32_t epoch, uint64_t plan, const Tensor& rows, int64_t vocab_size);

  // What a row of a plan of this epoch feeds: kVoidToken if its sequence has ended, or if what is
  // there is not the row's. REQUIRES: row.token_from is not 0.
  int32_t Take(uint32_t epoch, const PlanRow& row) const;

 private:
  struct Entry {
    bool used = false;
    uint32_t epoch = 0;
    uint32_t generation = 0;
    int64_t position = 0;
    int32_t token = 0;
  };
  size_t Place(int64_t slot, uint64_t plan) const {
    return static_cast<size_t>(slot * depth_) +
           static_cast<size_t>(plan % static_cast<uint64_t>(depth_));
  }

  const int64_t slots_;
  const int64_t depth_;
  std::vector<Entry> entries_;  // [slot][plan mod depth]
};

}  // namespace penstock
