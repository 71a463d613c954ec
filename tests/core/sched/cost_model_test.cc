#include "core/sched/cost_model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

namespace penstock {
namespace {

// About SmolLM2-135M in four bits.
StageWork SmallWork() {
  StageWork work;
  work.weight_bytes = 66'000'000;
  work.flops_per_token = 212'000'000;
  work.kv_bytes_per_position = 46'080;
  work.flops_per_pair = 69'120;
  work.head_flops_per_sample = 56'000'000;
  work.head_bytes = 30'000'000;
  return work;
}

// A machine whose times are the model's own, with other scales: what can be learned.
struct Machine {
  double fixed = 1;
  double tokens = 1;
  double attention = 1;
  bool overlaps = false;

  MachineRates Rates() const {
    MachineRates rates;
    rates.overlaps = overlaps;
    return rates;
  }
  double TimeNs(const PlanShape& shape) const {
    const StageWork work = SmallWork();
    const MachineRates rates;
    const auto bandwidth = static_cast<double>(rates.bytes_per_second) * 1e-9;
    const auto speed = static_cast<double>(rates.flops_per_second) * 1e-9;
    const auto read =
        static_cast<double>(work.weight_bytes + (shape.samples > 0 ? work.head_bytes : 0));
    const double reading = fixed * read / bandwidth;
    const double computing = tokens *
                             (static_cast<double>(shape.tokens * work.flops_per_token) +
                              static_cast<double>(shape.samples * work.head_flops_per_sample)) /
                             speed;
    return fixed * static_cast<double>(rates.plan_overhead_ns) +
           (overlaps ? std::max(reading, computing) : reading + computing) +
           attention *
               (static_cast<double>(shape.context * work.kv_bytes_per_position) / bandwidth +
                static_cast<double>(shape.pairs * work.flops_per_pair) / speed);
  }
};

// Plans as a server sees them: decodes, now and then with a chunk of a prompt.
class Plans {
 public:
  explicit Plans(uint32_t seed) : random_(seed) {}

  PlanShape Next() {
    const int64_t rows = Draw(1, 32);
    PlanShape shape = DecodeShape(rows, rows * Draw(10, 1500));
    if (Draw(0, 9) >= 3) return shape;
    StepPlan chunk;
    chunk.rows.resize(1);
    chunk.rows[0].position = Draw(0, 1000);
    chunk.rows[0].tokens.resize(static_cast<size_t>(Draw(32, 512)));
    const PlanShape prefill = ShapeOf(chunk, 0);
    shape.rows += prefill.rows;
    shape.tokens += prefill.tokens;
    shape.context += prefill.context;
    shape.pairs += prefill.pairs;
    return shape;
  }
  int64_t Draw(int64_t least, int64_t most) {
    return least + static_cast<int64_t>(random_() % static_cast<uint64_t>(most - least + 1));
  }
  // A factor of up to `noise` up or down; one time in ten the host took a thread away.
  double Disturbance(double noise, bool outliers) {
    const double even = static_cast<double>(Draw(-1000, 1000)) / 1000;
    const double factor = std::exp(noise * even);
    return outliers && Draw(0, 9) == 0 ? factor * std::pow(10, static_cast<double>(Draw(1, 2)))
                                       : factor;
  }

 private:
  std::mt19937 random_;  // the same numbers everywhere, unlike the distributions
};

void Learn(const Machine& machine, int count, double noise, bool outliers, Plans& plans,
           StageCost& cost) {
  for (int i = 0; i < count; ++i) {
    const PlanShape shape = plans.Next();
    const double ns = machine.TimeNs(shape) * plans.Disturbance(noise, outliers);
    cost.Observe(shape, static_cast<int64_t>(ns));
  }
}

double MeanError(const Machine& machine, const StageCost& cost) {
  Plans plans(77);
  double sum = 0;
  constexpr int kCount = 100;
  for (int i = 0; i < kCount; ++i) {
    const PlanShape shape = plans.Next();
    sum += std::abs(static_cast<double>(cost.PredictNs(shape)) / machine.TimeNs(shape) - 1);
  }
  return sum / kCount;
}

TEST(CostModel, BeginsWithTheRoofline) {
  const StageCost cost(SmallWork(), {});
  EXPECT_LT(MeanError(Machine(), cost), 1e-6);
  // 50 us, 66 MB and 30 MB at 20 GB/s; 2 * (212 + 56) MFLOP at 125 GFLOP/s; 100 positions.
  const double expected = 50e3 + 4.8e6 + 4.288e6 + 100 * (2304 + 552.96);
  EXPECT_NEAR(static_cast<double>(cost.PredictNs(DecodeShape(2, 100))), expected, 2);
}

TEST(CostModel, ShapeOfAPlan) {
  StepPlan plan;
  plan.rows.resize(3);
  plan.rows[0].position = 9;  // a decode: sees positions 0 to 9
  plan.rows[0].tokens = {1};
  plan.rows[0].sample = true;
  plan.rows[1].position = 2;  // a chunk that sees 3, 4 and 5 positions
  plan.rows[1].tokens = {1, 2, 3};
  plan.rows[2].position = 0;  // a prompt whose log-probabilities are told: 1 and 2
  plan.rows[2].tokens = {1, 2};
  plan.rows[2].targets = {2};
  plan.rows[2].sample = true;
  const PlanShape shape = ShapeOf(plan, 0);
  EXPECT_EQ(shape.rows, 3);
  EXPECT_EQ(shape.tokens, 6);
  EXPECT_EQ(shape.context, 10 + 5 + 2);
  EXPECT_EQ(shape.pairs, 10 + (3 + 4 + 5) + (1 + 2));
  EXPECT_EQ(shape.samples, 3);
  const PlanShape windowed = ShapeOf(plan, 4);
  EXPECT_EQ(windowed.context, 4 + 4 + 2);
  EXPECT_EQ(windowed.pairs, 4 + (3 + 4 + 4) + (1 + 2));
}

// A chunk of many tokens hides the weights that it reads, a decode its products.
TEST(CostModel, OfWhatOverlapsTheGreaterCounts) {
  for (const double fixed : {0.3, 1.0, 3.0}) {
    for (const double tokens : {0.3, 1.0, 3.0}) {
      const Machine machine{fixed, tokens, 1, /*overlaps=*/true};
      SCOPED_TRACE(testing::Message() << fixed << ", " << tokens);
      StageCost cost(SmallWork(), machine.Rates());
      if (fixed == 1 && tokens == 1) {
        EXPECT_LT(MeanError(machine, cost), 1e-6);
      }
      Plans plans(1);
      Learn(machine, 100, 0, false, plans, cost);
      EXPECT_LT(MeanError(machine, cost), 0.05);
    }
  }
}

TEST(CostModel, LearnsAnyMachineFromFiftyPlans) {
  for (const double fixed : {0.02, 0.3, 1.0, 30.0}) {
    for (const double tokens : {0.02, 0.3, 1.0, 30.0}) {
      for (const double attention : {0.02, 0.3, 1.0, 30.0}) {
        const Machine machine{fixed, tokens, attention};
        SCOPED_TRACE(testing::Message() << fixed << ", " << tokens << ", " << attention);
        Plans plans(1);
        StageCost exact(SmallWork(), {});
        Learn(machine, 50, 0, false, plans, exact);
        EXPECT_LT(MeanError(machine, exact), 0.02);
        StageCost noisy(SmallWork(), {});
        Learn(machine, 50, 0.1, true, plans, noisy);
        EXPECT_LT(MeanError(machine, noisy), 0.12);
      }
    }
  }
}

TEST(CostModel, AnOutlierMovesItLittle) {
  const Machine machine{3, 0.5, 2};
  Plans plans(2);
  StageCost cost(SmallWork(), {});
  Learn(machine, 50, 0.05, false, plans, cost);
  const double before = MeanError(machine, cost);
  const PlanShape shape = DecodeShape(8, 4000);
  for (int i = 0; i < 3; ++i) {
    cost.Observe(shape, static_cast<int64_t>(machine.TimeNs(shape) * 1000));
  }
  EXPECT_LT(MeanError(machine, cost), before + 0.03);
}

TEST(CostModel, AMachineThatBecomesSlowerIsFollowed) {
  const Machine machine{1, 0.5, 2};
  Plans plans(3);
  StageCost cost(SmallWork(), {});
  Learn(machine, 200, 0.1, false, plans, cost);
  const Machine slower{2, 1, 4};
  Learn(slower, 200, 0.1, false, plans, cost);
  EXPECT_LT(MeanError(slower, cost), 0.05);
}

// A server that decodes for an hour still knows what a prompt costs, and splits fixed cost from
// that of a row.
TEST(CostModel, DecodesDoNotMakeItForgetPrompts) {
  const Machine machine{4, 0.3, 0.5};
  Plans plans(4);
  StageCost cost(SmallWork(), {});
  Learn(machine, 100, 0.1, true, plans, cost);
  for (int64_t i = 0; i < 3000; ++i) {
    const PlanShape shape = DecodeShape(16, 16 * (200 + i % 1000));
    cost.Observe(shape, static_cast<int64_t>(machine.TimeNs(shape) * plans.Disturbance(0.1, true)));
  }
  EXPECT_LT(MeanError(machine, cost), 0.15);
}

TEST(CostModel, NeverPredictsNothingOrLess) {
  StageCost cost(SmallWork(), {});
  const PlanShape most{1 << 16, 1 << 20, int64_t{1} << 40, int64_t{1} << 50, 1 << 16};
  for (int i = 0; i < 200; ++i) {
    cost.Observe(DecodeShape(1 + i % 32, 100),
                 i % 2 == 0 ? 1 : std::numeric_limits<int64_t>::max());
    cost.Observe(most, 1);
    cost.Observe({}, 1'000'000);
    cost.Observe(DecodeShape(1, 1), 0);
    cost.Observe(DecodeShape(1, 1), -5);
    for (const PlanShape& shape : {PlanShape{}, DecodeShape(1, 1), most}) {
      EXPECT_GT(cost.PredictNs(shape), 0);
    }
  }
}

TEST(CostModel, WhatIsNoTimeIsIgnored) {
  StageCost cost(SmallWork(), {});
  const int64_t before = cost.PredictNs(DecodeShape(4, 400));
  cost.Observe(DecodeShape(4, 400), 0);
  cost.Observe(DecodeShape(4, 400), -1'000'000);
  cost.Observe({}, 1'000'000'000);
  EXPECT_EQ(cost.PredictNs(DecodeShape(4, 400)), before);
}

TEST(CostModel, TheSameObservationsGiveTheSamePredictions) {
  StageCost costs[2] = {{SmallWork(), {}}, {SmallWork(), {}}};
  for (StageCost& cost : costs) {
    Plans plans(5);
    Learn({2, 3, 4}, 300, 0.2, true, plans, cost);
  }
  Plans plans(6);
  for (int i = 0; i < 100; ++i) {
    const PlanShape shape = plans.Next();
    EXPECT_EQ(costs[0].PredictNs(shape), costs[1].PredictNs(shape));
  }
}

// A stage of `fixed_ns` a plan and `row_ns` a row.
StageCost Stage(int64_t fixed_ns, int64_t row_ns) {
  StageWork work;
  work.flops_per_token = row_ns;
  return {work, {1'000'000'000, 1'000'000'000, fixed_ns}};
}

TEST(PipelineCost, OneStageIsFedAllAtOnce) {
  const PipelineCost cost({Stage(1000, 500)});
  for (int64_t rows : {0, 1, 2, 7, 64}) EXPECT_EQ(cost.Groups(rows, rows * 100, 16), 1);
}

TEST(PipelineCost, AsManyGroupsAsKeepTheStagesBusy) {
  const PipelineCost four({Stage(1000, 500), Stage(1000, 500), Stage(1000, 500), Stage(1000, 500)});
  EXPECT_EQ(four.Groups(64, 6400, 16), 4);
  EXPECT_EQ(four.Groups(64, 6400, 2), 2);
  EXPECT_EQ(four.Groups(3, 300, 16), 3);
  EXPECT_EQ(four.Groups(1, 100, 16), 1);
  // Where the weights are all that counts a second group costs as much as it gains.
  const PipelineCost heavy({Stage(1'000'000, 1), Stage(1'000'000, 1)});
  EXPECT_EQ(heavy.Groups(2, 200, 16), 2);
  EXPECT_EQ(heavy.PredictNs(DecodeShape(2, 200)), 2'000'004);
  // One slow stage: the others wait for it in any case, and more groups only cost it more.
  const PipelineCost uneven({Stage(1000, 10), Stage(100'000, 10), Stage(1000, 10)});
  EXPECT_EQ(uneven.Groups(64, 6400, 16), 1);
}

TEST(PipelineCost, GroupsAreTheBestOfAll) {
  Plans plans(9);
  for (int trial = 0; trial < 200; ++trial) {
    std::vector<StageCost> stages;
    const int64_t count = plans.Draw(1, 6);
    for (int64_t i = 0; i < count; ++i) {
      stages.push_back(Stage(plans.Draw(1, 5000), plans.Draw(1, 500)));
    }
    const PipelineCost cost(stages);
    const int64_t rows = plans.Draw(1, 40);
    const auto round_ns = [&](int64_t groups) {
      const PlanShape shape = DecodeShape((rows + groups - 1) / groups, 0);
      int64_t slowest = 0;
      int64_t sum = 0;
      for (const StageCost& stage : stages) {
        slowest = std::max(slowest, stage.PredictNs(shape));
        sum += stage.PredictNs(shape);
      }
      EXPECT_EQ(cost.PredictSlowestNs(shape), slowest);
      return std::max(groups * slowest, sum);
    };
    const int64_t chosen = cost.Groups(rows, 0, 12);
    for (int64_t groups = 1; groups <= std::min<int64_t>(rows, 12); ++groups) {
      if (groups < chosen) {
        EXPECT_LT(round_ns(chosen), round_ns(groups));
      } else {
        EXPECT_LE(round_ns(chosen), round_ns(groups));
      }
    }
  }
}

TEST(PipelineCost, LearnsEachStageAlone) {
  PipelineCost cost({Stage(1000, 10), Stage(1000, 10)});
  const PlanShape shape = DecodeShape(4, 400);
  const int64_t before = cost.PredictNs(shape);
  for (int i = 0; i < 20; ++i) cost.Observe(1, shape, 100'000);
  EXPECT_NEAR(static_cast<double>(cost.PredictSlowestNs(shape)), 100'000, 2'000);
  EXPECT_NEAR(static_cast<double>(cost.PredictNs(shape)), 100'000 + static_cast<double>(before) / 2,
              2'000);
}

}  // namespace
}  // namespace penstock
