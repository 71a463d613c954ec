// PlanDraft: a plan that the scheduler is about to make.
// PlanLog: the plans in flight as the scheduler remembers them, and the shapes of the latest plans,
// for the cost model. A row is kept by slot and generation: its sequence may have left since.
// Thread rule: one thread, the scheduler's.
#pragma once

#include <cstdint>
#include <deque>
#include <utility>
#include <vector>

#include "core/base/check.h"
#include "core/sched/cost_model.h"
#include "core/sched/sequence.h"

namespace penstock {

struct PlanDraft {
  struct Pick {  // a row to be
    Sequence* sequence = nullptr;
    int64_t tokens = 0;
  };
  std::vector<Pick> prefills;
  std::vector<Pick> decodes;
  std::vector<Sequence*> admitted;
  int64_t budget = 0;     // tokens that may still be added
  bool is_short = false;  // somebody lacks a block: nobody is let in

  bool empty() const { return prefills.empty() && decodes.empty(); }
  void Reset(int64_t max_tokens) {
    prefills.clear();
    decodes.clear();
    admitted.clear();
    budget = max_tokens;
    is_short = false;
  }
};

struct PlannedRow {
  SequenceId id = 0;
  int32_t slot = 0;
  uint32_t generation = 0;
  int64_t tokens = 0;
  int64_t targets = 0;
  bool sample = false;
};

struct PlannedStep {
  uint64_t number = 0;
  std::vector<PlannedRow> rows;
  bool alone = false;  // holds a suspect
};

class PlanLog {
 public:
  // REQUIRES: 1 <= plans_ahead.
  explicit PlanLog(int64_t plans_ahead)
      : shapes_(static_cast<size_t>(4 * plans_ahead + kShapesKept)) {}

  uint64_t next_number() const { return last_number_ + 1; }
  int64_t size() const { return static_cast<int64_t>(steps_.size()); }
  bool empty() const { return steps_.empty(); }
  bool holds_suspect() const { return !steps_.empty() && steps_.back().alone; }
  const std::deque<PlannedStep>& steps() const { return steps_; }  // oldest first

  // REQUIRES: step.number is next_number().
  void Push(PlannedStep step, const PlanShape& shape) {
    PENSTOCK_CHECK_EQ(step.number, next_number());
    last_number_ = step.number;
    shapes_[last_number_ % shapes_.size()] = {last_number_, shape};
    steps_.push_back(std::move(step));
  }
  // REQUIRES: the oldest one has this number.
  PlannedStep Pop(uint64_t number) {
    PENSTOCK_CHECK(!steps_.empty());
    PENSTOCK_CHECK_EQ(steps_.front().number, number);
    PlannedStep step = std::move(steps_.front());
    steps_.pop_front();
    return step;
  }
  void Drop() { steps_.clear(); }

  // Of a plan of late, committed or not; nullptr: it is too old, or none.
  const PlanShape* shape(uint64_t number) const {
    const Entry& entry = shapes_[number % shapes_.size()];
    return number != 0 && entry.number == number ? &entry.shape : nullptr;
  }

 private:
  static constexpr int64_t kShapesKept = 60;
  struct Entry {
    uint64_t number = 0;
    PlanShape shape;
  };

  std::deque<PlannedStep> steps_;
  std::vector<Entry> shapes_;  // a ring
  uint64_t last_number_ = 0;
};

}  // namespace penstock
