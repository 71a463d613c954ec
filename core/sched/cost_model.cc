#include "core/sched/cost_model.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "core/base/check.h"

namespace penstock {
namespace {

constexpr double kNsPerSecond = 1e9;
constexpr double kMostNs = 1e15;  // what a prediction may say: 11 days

// A machine may be so much slower or faster than the guess.
constexpr double kLeastScale = 1e-4;
constexpr double kMostScale = 1e4;

// An observation's weight falls with the number of those after it, down to a floor: those of
// seldom sizes still tell the parts apart, and many new ones together outvote them.
constexpr double kFading = 0.98;
constexpr double kLeastWeight = 0.01;

// By age, until the floor.
const std::vector<double>& Fading() {
  static const auto* const weights = [] {
    auto* made = new std::vector<double>;
    for (double weight = 1; weight > kLeastWeight; weight *= kFading) made->push_back(weight);
    return made;
  }();
  return *weights;
}

constexpr int kIterations = 2;     // of reweighting; each observation goes on from the last
constexpr int kSweeps = 30;        // of Gauss-Seidel over the three scales
constexpr double kExact = 0.02;    // relative errors below it count alike
constexpr double kInertia = 1e-4;  // pull towards the present scales, an observation

double Nanoseconds(double work, int64_t per_second) {
  return work * kNsPerSecond / static_cast<double>(per_second);
}

double Product(int64_t a, int64_t b) { return static_cast<double>(a) * static_cast<double>(b); }

// Sum of min(position + 1, window) over positions [first, first + count).
int64_t PositionsSeen(int64_t first, int64_t count, int64_t window) {
  const int64_t growing = std::clamp<int64_t>(window - first, 0, count);
  return growing * first + growing * (growing + 1) / 2 + (count - growing) * window;
}

}  // namespace

PlanShape ShapeOf(const StepPlan& plan, int64_t sliding_window) {
  PlanShape shape;
  for (const PlanRow& row : plan.rows) {
    const auto tokens = static_cast<int64_t>(row.tokens.size());
    const int64_t end = row.position + tokens;
    const int64_t window = sliding_window > 0 ? sliding_window : end;
    ++shape.rows;
    shape.tokens += tokens;
    shape.context += std::min(end, window);
    shape.pairs += PositionsSeen(row.position, tokens, window);
    shape.samples += (row.sample ? 1 : 0) + static_cast<int64_t>(row.targets.size());
  }
  return shape;
}

PlanShape DecodeShape(int64_t rows, int64_t context) {
  return {rows, rows, context, context, rows};
}

StageCost::Roofs StageCost::Roofline(const PlanShape& shape) const {
  const double read = static_cast<double>(work_.weight_bytes) +
                      static_cast<double>(shape.samples > 0 ? work_.head_bytes : 0);
  const double multiplied = Product(shape.tokens, work_.flops_per_token) +
                            Product(shape.samples, work_.head_flops_per_sample);
  return {
      static_cast<double>(rates_.plan_overhead_ns), Nanoseconds(read, rates_.bytes_per_second),
      Nanoseconds(multiplied, rates_.flops_per_second),
      Nanoseconds(Product(shape.context, work_.kv_bytes_per_position), rates_.bytes_per_second) +
          Nanoseconds(Product(shape.pairs, work_.flops_per_pair), rates_.flops_per_second)};
}

StageCost::Parts StageCost::PartsOf(const Roofs& roofs, const Parts& scales) const {
  const bool reads_longer = roofs.reading * scales[0] > roofs.computing * scales[1];
  const bool has_reading = !rates_.overlaps || reads_longer;
  const bool has_computing = !rates_.overlaps || !reads_longer;
  return {roofs.overhead + (has_reading ? roofs.reading : 0), has_computing ? roofs.computing : 0,
          roofs.attention};
}

int64_t StageCost::PredictNs(const PlanShape& shape) const {
  const Parts parts = PartsOf(Roofline(shape), scales_);
  double sum = 0;
  for (size_t i = 0; i < parts.size(); ++i) sum += parts[i] * scales_[i];
  return static_cast<int64_t>(std::clamp(sum, 1.0, kMostNs));
}

void StageCost::Observe(const PlanShape& shape, int64_t compute_ns) {
  if (compute_ns <= 0 || shape.tokens <= 0) return;
  Observation observation;
  observation.roofs = Roofline(shape);
  Roofs& roofs = observation.roofs;
  for (double* roof : {&roofs.overhead, &roofs.reading, &roofs.computing, &roofs.attention}) {
    *roof /= static_cast<double>(compute_ns);
  }
  observation.number = ++observed_;
  const size_t size = std::min<size_t>(std::bit_width(static_cast<uint64_t>(shape.tokens)), kSizes);
  kept_[size - 1][static_cast<size_t>(seen_[size - 1]++ % kKept)] = observation;
  Refit();
}

void StageCost::Refit() {
  const Parts present = scales_;
  const std::vector<double>& fading = Fading();
  for (int iteration = 0; iteration < kIterations; ++iteration) {
    // Of the scales s, the sum of weight * (share . s - 1)^2, as normal equations.
    std::array<Parts, kParts> left = {};
    Parts right = {};
    double count = 0;
    for (const auto& size : kept_) {
      for (const Observation& each : size) {
        if (each.number == 0) continue;
        const Parts share = PartsOf(each.roofs, scales_);
        double error = -1;
        for (size_t i = 0; i < kParts; ++i) error += share[i] * scales_[i];
        const auto age = static_cast<size_t>(observed_ - each.number);
        const double weight =
            (age < fading.size() ? fading[age] : kLeastWeight) / std::max(std::abs(error), kExact);
        for (size_t i = 0; i < kParts; ++i) {
          right[i] += weight * share[i];
          for (size_t j = 0; j < kParts; ++j) left[i][j] += weight * share[i] * share[j];
        }
        count += 1;
      }
    }
    // What the observations do not tell stays as it is.
    for (size_t i = 0; i < kParts; ++i) {
      left[i][i] += kInertia * count / (present[i] * present[i]);
      right[i] += kInertia * count / present[i];
    }
    for (int sweep = 0; sweep < kSweeps; ++sweep) {
      const Parts before = scales_;
      for (size_t i = 0; i < kParts; ++i) {
        double rest = right[i];
        for (size_t j = 0; j < kParts; ++j) {
          if (j != i) rest -= left[i][j] * scales_[j];
        }
        scales_[i] = std::clamp(rest / left[i][i], kLeastScale, kMostScale);
      }
      if (scales_ == before) break;  // and so would all other sweeps leave them
    }
  }
}

int64_t PipelineCost::Groups(int64_t rows, int64_t context, int64_t max_groups) const {
  const int64_t most = std::min(rows, max_groups);
  int64_t best = 1;
  int64_t least_ns = 0;
  for (int64_t groups = 1; groups <= most; ++groups) {
    const PlanShape shape =
        DecodeShape((rows + groups - 1) / groups, (context + groups - 1) / groups);
    const int64_t ns = std::max(groups * PredictSlowestNs(shape), PredictNs(shape));
    if (groups > 1 && ns >= least_ns) continue;
    best = groups;
    least_ns = ns;
  }
  return best;
}

int64_t PipelineCost::PredictNs(const PlanShape& shape) const {
  int64_t sum = 0;
  for (const StageCost& stage : stages_) sum += stage.PredictNs(shape);
  return sum;
}

int64_t PipelineCost::PredictSlowestNs(const PlanShape& shape) const {
  int64_t slowest = 0;
  for (const StageCost& stage : stages_) slowest = std::max(slowest, stage.PredictNs(shape));
  return slowest;
}

void PipelineCost::Observe(int64_t stage, const PlanShape& shape, int64_t compute_ns) {
  PENSTOCK_CHECK(stage >= 0 && stage < num_stages());
  stages_[static_cast<size_t>(stage)].Observe(shape, compute_ns);
}

}  // namespace penstock
