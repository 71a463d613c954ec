#include "core/sched/answer_length.h"

#include <algorithm>

namespace penstock {

void AnswerLength::CameTo(int part) {
  const auto i = static_cast<size_t>(part);
  if (++came_[i] >= kRemembered) {
    came_[i] /= 2;
    ended_[i] /= 2;
  }
  Update();
}

void AnswerLength::EndedIn(int part) {
  ++ended_[static_cast<size_t>(part)];
  caution_ -= (caution_ + kCalm - 1) / kCalm;
  Update();
}

void AnswerLength::WasPreempted() { caution_ = std::min(caution_ + kStep, kOne); }

void AnswerLength::Update() {
  for (size_t i = kParts; i-- > 0;) {
    const int64_t seen = came_[i] + kPrior;
    const int64_t ends = std::min(ended_[i], came_[i]);
    // Who ends in a part uses half of it.
    rest_[i] = ((seen - ends) * (kOne + rest_[i + 1]) + ends * (kOne / 2)) / seen;
  }
}

int64_t AnswerLength::Expect(int64_t generated, int64_t max_tokens) const {
  const int part = PartOf(generated, max_tokens);
  const int64_t parts = part * kOne + rest_[static_cast<size_t>(part)];
  const int64_t likely = (max_tokens * parts + kParts * kOne - 1) / (kParts * kOne);
  const int64_t careful = likely + (max_tokens - likely) * caution_ / kOne;
  return std::clamp(careful, generated + 1, max_tokens);
}

}  // namespace penstock
