// A piece of a transfer as the message TransferRequest{chunk} (proto/penstock/worker/v1), encoded
// here so that the tensor's bytes are copied once, into what goes to the socket.
#pragma once

#include <grpcpp/support/byte_buffer.h>

#include <cstddef>
#include <cstdint>
#include <span>

namespace penstock {

// REQUIRES: data.size() < 2^31.
grpc::ByteBuffer EncodeChunk(uint64_t plan, int64_t total_bytes, int64_t offset,
                             std::span<const std::byte> data);

}  // namespace penstock
