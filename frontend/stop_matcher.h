// StopMatcher: finds the place where a growing text completes one of some stop texts, and holds
// back the end of the text that may still become one. The first place counts at which a stop text
// ends, and of those that end there the longest: so the outcome is the same however the text was
// cut into pieces.
//
// One automaton of Knuth, Morris and Pratt a stop text: a byte of the text costs constant time a
// stop text on average, and nothing that was given out is looked at again.
// Thread rule: one thread at a time.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace penstock {

class StopMatcher {
 public:
  // REQUIRES: no stop text is empty.
  explicit StopMatcher(const std::vector<std::string>& stops);

  // Takes the next piece of the text; returns what can be given out: the text up to the stop text
  // if one is complete, else all but what may become one. A stop text that is complete in a piece
  // with `may_stop` false is no stop; one that only began there is. REQUIRES: !stopped().
  std::string Add(std::string_view piece, bool may_stop = true);

  // The end of the text if nothing more comes: what is still held back.
  std::string Finish();

  bool stopped() const { return stopped_ >= 0; }
  // The stop text that is complete. REQUIRES: stopped().
  const std::string& stop() const { return automata_[static_cast<size_t>(stopped_)].text; }

 private:
  struct Automaton {
    std::string text;
    std::vector<size_t> borders;  // by length of a prefix: its longest proper border's length
    size_t matched = 0;           // bytes of `text` that the text so far ends with
  };

  // True if the byte completes the automaton's text.
  static bool Step(Automaton& automaton, char byte);

  std::vector<Automaton> automata_;
  std::string held_;
  int64_t stopped_ = -1;
};

}  // namespace penstock
