// AnswerLength: how long an answer will probably be, learnt from those before it. Reserving
// max_tokens for each would leave most of the KV memory unused; reserving too little means
// preemption.
//
// max_tokens is divided into parts. Of each part it counts the answers that came as far and those
// that ended there; the share of these is the part's hazard (Kaplan and Meier, "Nonparametric
// Estimation from Incomplete Observations", 1958), so that answers which still go on count for what
// is known of them. What was never seen to end is expected to go to its end: in the beginning that
// is everything. Each preemption makes it more cautious for a while.
// Thread rule: one thread, the scheduler's.
#pragma once

#include <array>
#include <cstdint>

namespace penstock {

class AnswerLength {
 public:
  static constexpr int kParts = 16;

  AnswerLength() { Update(); }

  // Where an answer of so many tokens stands: 0 to kParts - 1. REQUIRES: 0 <= generated <= max.
  static int PartOf(int64_t generated, int64_t max_tokens) {
    const auto part = static_cast<int>(generated * kParts / max_tokens);
    return part < kParts ? part : kParts - 1;
  }

  void CameTo(int part);   // once an answer and part, in their order, from 0 on
  void EndedIn(int part);  // before its max_tokens
  void WasPreempted();

  // Tokens that it will have in the end: more than `generated`, at most max_tokens.
  // REQUIRES: 0 <= generated < max_tokens < 2^40.
  int64_t Expect(int64_t generated, int64_t max_tokens) const;

 private:
  static constexpr int64_t kOne = 1024;        // fixed point
  static constexpr int64_t kPrior = 8;         // answers that went on, before any was seen
  static constexpr int64_t kRemembered = 256;  // answers a part; the older count half
  static constexpr int64_t kStep = 128;        // of caution, a preemption
  static constexpr int64_t kCalm = 32;         // a 1/32 of it goes with each answer that ends

  void Update();

  std::array<int64_t, kParts> came_ = {};
  std::array<int64_t, kParts> ended_ = {};
  std::array<int64_t, kParts + 1> rest_ = {};  // expected from the begin of a part on, in parts
  int64_t caution_ = 0;                        // 0: the expectation counts, kOne: max_tokens
};

}  // namespace penstock
