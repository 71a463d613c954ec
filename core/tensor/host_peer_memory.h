// PeerMemory of the host: a file without a name (memfd) that both processes map. Stages on the CPU
// use it where they are told to, and tests of all that is the same on a GPU.
#pragma once

#include <memory>

#include "core/tensor/peer_memory.h"

namespace penstock {

std::unique_ptr<PeerMemory> MakeHostPeerMemory();

}  // namespace penstock
