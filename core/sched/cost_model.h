// Cost model: how long a plan takes on a stage, and what follows for micro-batches. It starts from
// a roofline of the stage's bytes and operations, and is refined by the times that results carry.
// Source of the roofline: Williams, Waterman, Patterson, CACM 2009. Answers depend on it in no way:
// it only decides what runs together.
// Thread rule: one thread, the scheduler's.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace penstock {

// What a plan asks of a stage.
struct PlanShape {
  int64_t rows = 0;
  int64_t tokens = 0;
  int64_t context = 0;  // positions seen, summed over the rows' last tokens
  int64_t pairs = 0;    // positions seen, summed over all tokens: the work of attention
  int64_t samples = 0;
};

// What a stage reads and computes; of a stage of a real model core/sched/layer_split.h tells it.
struct StageWork {
  int64_t weight_bytes = 0;           // read once a plan
  int64_t flops_per_token = 0;        // of the weights, two a multiplication
  int64_t kv_bytes_per_position = 0;  // of this stage's layers
  int64_t flops_per_pair = 0;         // attention: token times position
  int64_t head_flops_per_sample = 0;  // LM head, on the last stage
};

// What a machine does, to begin with; guesses are good enough.
struct MachineRates {
  int64_t bytes_per_second = 10'000'000'000;
  int64_t flops_per_second = 50'000'000'000;
  int64_t plan_overhead_ns = 50'000;
};

class StageCost {
 public:
  StageCost(const StageWork& work, const MachineRates& rates);
  int64_t PredictNs(const PlanShape& shape) const;
  // A result's compute_ns. Outliers (a thread that the host took away) move it little.
  void Observe(const PlanShape& shape, int64_t compute_ns);

 private:
  StageWork work_;
  MachineRates rates_;
  // Correction of the roofline, refined in service.
  double fixed_scale_ = 1;
  double variable_scale_ = 1;
};

class PipelineCost {
 public:
  // One entry a stage; REQUIRES: not empty.
  explicit PipelineCost(std::vector<StageCost> stages) : stages_(std::move(stages)) {}

  int64_t num_stages() const { return static_cast<int64_t>(stages_.size()); }
  // Into how many plans `rows` decodes of `context` positions together are best split, 1 to
  // max_groups, so that all have advanced by one token soonest: the least of
  // max(groups * slowest stage, sum of stages) over the groups; the fewest among equals.
  int64_t Groups(int64_t rows, int64_t context, int64_t max_groups) const;
  // Through all stages, one after the other.
  int64_t PredictNs(const PlanShape& shape) const;
  void Observe(int64_t stage, const PlanShape& shape, int64_t compute_ns);

 private:
  std::vector<StageCost> stages_;
};

}  // namespace penstock
