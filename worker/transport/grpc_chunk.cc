#include "worker/transport/grpc_chunk.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/wire_format_lite.h>
#include <grpc/slice.h>

#include <array>
#include <cstring>

#include "penstock/worker/v1/worker.pb.h"

namespace penstock {
namespace {

using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedOutputStream;
using worker::v1::TransferChunk;
using worker::v1::TransferRequest;

constexpr size_t kMaxVarint = 10;

// Tags and numbers in front of the bytes, at most these: three numbers, two lengths.
class Prefix {
 public:
  void Number(int field, uint64_t value) {
    Tag(field, WireFormatLite::WIRETYPE_VARINT);
    end_ = CodedOutputStream::WriteVarint64ToArray(value, end_);
  }
  void Length(int field, size_t length) {
    Tag(field, WireFormatLite::WIRETYPE_LENGTH_DELIMITED);
    end_ = CodedOutputStream::WriteVarint64ToArray(length, end_);
  }
  const uint8_t* data() const { return bytes_.data(); }
  size_t size() const { return static_cast<size_t>(end_ - bytes_.data()); }

 private:
  void Tag(int field, WireFormatLite::WireType type) {
    end_ = CodedOutputStream::WriteTagToArray(WireFormatLite::MakeTag(field, type), end_);
  }

  std::array<uint8_t, 5 * 2 * kMaxVarint> bytes_;
  uint8_t* end_ = bytes_.data();
};

}  // namespace

grpc::ByteBuffer EncodeChunk(uint64_t plan, int64_t total_bytes, int64_t offset,
                             std::span<const std::byte> data) {
  Prefix inner;
  inner.Number(TransferChunk::kPlanFieldNumber, plan);
  inner.Number(TransferChunk::kTotalBytesFieldNumber, static_cast<uint64_t>(total_bytes));
  inner.Number(TransferChunk::kOffsetFieldNumber, static_cast<uint64_t>(offset));
  inner.Length(TransferChunk::kDataFieldNumber, data.size());
  Prefix outer;
  outer.Length(TransferRequest::kChunkFieldNumber, inner.size() + data.size());

  grpc_slice slice = grpc_slice_malloc(outer.size() + inner.size() + data.size());
  uint8_t* to = GRPC_SLICE_START_PTR(slice);
  std::memcpy(to, outer.data(), outer.size());
  std::memcpy(to + outer.size(), inner.data(), inner.size());
  if (!data.empty()) std::memcpy(to + outer.size() + inner.size(), data.data(), data.size());
  const grpc::Slice owned(slice, grpc::Slice::STEAL_REF);
  return grpc::ByteBuffer(&owned, 1);
}

}  // namespace penstock
