#include "frontend/stop_matcher.h"

#include <algorithm>
#include <utility>

#include "core/base/check.h"

namespace penstock {

StopMatcher::StopMatcher(const std::vector<std::string>& stops) {
  for (const std::string& stop : stops) {
    PENSTOCK_CHECK(!stop.empty());
    Automaton& automaton = automata_.emplace_back();
    automaton.text = stop;
    automaton.borders.assign(stop.size() + 1, 0);
    size_t border = 0;
    for (size_t i = 1; i < stop.size(); ++i) {
      while (border > 0 && stop[i] != stop[border]) border = automaton.borders[border];
      if (stop[i] == stop[border]) ++border;
      automaton.borders[i + 1] = border;
    }
  }
}

bool StopMatcher::Step(Automaton& automaton, char byte) {
  size_t& matched = automaton.matched;
  const std::string& text = automaton.text;
  if (matched == text.size()) matched = automaton.borders[matched];
  while (matched > 0 && text[matched] != byte) matched = automaton.borders[matched];
  if (text[matched] == byte) ++matched;
  return matched == text.size();
}

std::string StopMatcher::Add(std::string_view piece, bool may_stop) {
  PENSTOCK_CHECK(!stopped());
  if (automata_.empty()) return std::string(piece);
  for (const char byte : piece) {
    held_ += byte;
    for (size_t i = 0; i < automata_.size(); ++i) {
      if (!Step(automata_[i], byte) || !may_stop) continue;
      if (!stopped() || automata_[i].text.size() > stop().size()) {
        stopped_ = static_cast<int64_t>(i);
      }
    }
    if (stopped()) {
      held_.resize(held_.size() - stop().size());
      return std::exchange(held_, {});
    }
  }
  size_t keep = 0;
  for (const Automaton& automaton : automata_) {
    const bool whole = automaton.matched == automaton.text.size();  // too early to stop
    keep = std::max(keep, whole ? automaton.borders[automaton.matched] : automaton.matched);
  }
  std::string ready = held_.substr(0, held_.size() - keep);
  held_.erase(0, ready.size());
  return ready;
}

std::string StopMatcher::Finish() { return std::exchange(held_, {}); }

}  // namespace penstock
