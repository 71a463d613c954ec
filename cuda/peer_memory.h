// PeerMemory of a GPU (core/tensor/peer_memory.h): a mailbox is a cuMem allocation alone, exported
// as a file descriptor; the process that imports it maps it for its own GPU, the same one or
// another that reaches it (NVLink, PCIe), and copies into it with the copy engines. Dying owners
// and writers do no harm to the other side (tests/spike). Other rooms may include this header; it
// needs none of CUDA's. Copies run on streams of their own, and have ended when the call returns:
// what they copy from is finished by then, so no event ties them to other work. A failed copy ends
// the process.
#pragma once

#include <memory>

#include "core/tensor/peer_memory.h"

namespace penstock {

// Of mailboxes on this GPU, and of others that kernels on it write to. Opens the GPU. Errors: those
// of OpenGpu (cuda_allocator.h), UNIMPLEMENTED where the driver cannot share memory so.
absl::StatusOr<std::unique_ptr<PeerMemory>> MakeCudaPeerMemory(int ordinal);

// OK if a process on the GPU `from` can write to a mailbox on `to`. Opens neither. Errors: those of
// FindGpu, FAILED_PRECONDITION where one does not reach the other, UNIMPLEMENTED as above.
absl::Status CheckPeerGpus(int from, int to);

}  // namespace penstock
