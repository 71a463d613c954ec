// Cost model: how long a plan takes on a stage, and what follows for micro-batches. It starts from
// a roofline of the stage's bytes and operations, and is refined by the times that results carry.
// Source of the roofline: Williams, Waterman, Patterson, CACM 2009; the roofs are added here, where
// theirs takes the greater: at most twice as much, and linear, so that times can be fitted. On a
// GPU, where weights are read while products are computed, the greater of these two counts. Answers
// depend on it in no way: it only decides what runs together.
// Thread rule: one thread, the scheduler's.
#pragma once

#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include "core/sched/step_plan.h"

namespace penstock {

// What a plan asks of a stage.
struct PlanShape {
  int64_t rows = 0;
  int64_t tokens = 0;
  int64_t context = 0;  // positions seen, summed over the rows' last tokens
  int64_t pairs = 0;    // positions seen, summed over all tokens: the work of attention
  int64_t samples = 0;
};

// Of a plan; `sliding_window` is the model's (0: none).
PlanShape ShapeOf(const StepPlan& plan, int64_t sliding_window);

// Of a decode step of `rows` sequences that see `context` positions together.
PlanShape DecodeShape(int64_t rows, int64_t context);

// What a stage reads and computes; of a stage of a real model core/sched/layer_split.h tells it.
struct StageWork {
  int64_t weight_bytes = 0;           // read once a plan
  int64_t flops_per_token = 0;        // of the weights, two a multiplication
  int64_t kv_bytes_per_position = 0;  // of this stage's layers
  int64_t flops_per_pair = 0;         // attention: token times position
  int64_t head_flops_per_sample = 0;  // LM head, on the last stage
  int64_t head_bytes = 0;             // read once a plan that samples; not in weight_bytes
};

// What a machine does, to begin with; guesses are good enough. These are of two processor cores.
// REQUIRES: rates > 0.
struct MachineRates {
  int64_t bytes_per_second = 20'000'000'000;
  int64_t flops_per_second = 125'000'000'000;
  int64_t plan_overhead_ns = 50'000;
  bool overlaps = false;  // reading weights and computing with them
};
// Of a Hopper GPU, in 16 bits.
inline constexpr MachineRates kGpuRates = {3'000'000'000'000, 600'000'000'000'000, 100'000, true};

// The time is a sum of three parts, each the roofline's times a scale: what a plan costs whatever
// its rows (overhead, weights read), what each token and sample costs, and attention. The scales
// are fitted to the observations, weighted by age, so that the sum of the relative errors'
// absolute values is least (iteratively reweighted least squares): an outlier, a thread that the
// host took away, counts as one vote and no more. Plans of all sizes are remembered, so that an
// hour of decodes does not forget what a prompt costs.
class StageCost {
 public:
  StageCost(const StageWork& work, const MachineRates& rates) : work_(work), rates_(rates) {}

  // > 0.
  int64_t PredictNs(const PlanShape& shape) const;
  // A result's compute_ns; what is not positive is ignored.
  void Observe(const PlanShape& shape, int64_t compute_ns);

 private:
  static constexpr int kParts = 3;
  static constexpr int kSizes = 16;  // classes of plans, by the power of two of their tokens
  static constexpr int kKept = 8;    // latest observations of each
  using Parts = std::array<double, kParts>;
  // Nanoseconds.
  struct Roofs {
    double overhead = 0;
    double reading = 0;  // of weights
    double computing = 0;
    double attention = 0;
  };

  struct Observation {
    Roofs roofs;         // divided by the time that was measured
    int64_t number = 0;  // from 1; 0: none
  };

  Roofs Roofline(const PlanShape& shape) const;
  // What the scales scale. Of roofs that overlap the lesser, as these scales have it, is left out.
  Parts PartsOf(const Roofs& roofs, const Parts& scales) const;
  void Refit();

  StageWork work_;
  MachineRates rates_;
  Parts scales_ = {1, 1, 1};
  std::array<std::array<Observation, kKept>, kSizes> kept_ = {};
  std::array<int64_t, kSizes> seen_ = {};
  int64_t observed_ = 0;
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
  // On the stage that takes longest: how often such plans can follow each other.
  int64_t PredictSlowestNs(const PlanShape& shape) const;
  // REQUIRES: 0 <= stage < num_stages().
  void Observe(int64_t stage, const PlanShape& shape, int64_t compute_ns);

 private:
  std::vector<StageCost> stages_;
};

}  // namespace penstock
