// Text from outside (a file, a request) as messages show it. A pure function.
#pragma once

#include <string>
#include <string_view>

namespace penstock {

// The text in single quotes: bytes that are not printable ASCII are escaped and long text is cut,
// so that a message never carries what a terminal or a log could trip over.
std::string Quoted(std::string_view text);

}  // namespace penstock
