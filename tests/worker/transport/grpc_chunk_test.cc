#include "worker/transport/grpc_chunk.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "penstock/worker/v1/worker.pb.h"

namespace penstock {
namespace {

std::string Bytes(const grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  EXPECT_TRUE(buffer.Dump(&slices).ok());
  std::string bytes;
  for (const grpc::Slice& slice : slices) {
    bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  return bytes;
}

TEST(GrpcChunkTest, IsWhatProtobufMakesOfTheMessage) {
  for (const size_t size : {0, 1, 127, 128, 16383, 16384, 1 << 20}) {
    std::string data(size, '\0');
    for (size_t i = 0; i < size; ++i) data[i] = static_cast<char>(i * 31);
    for (const uint64_t plan : {uint64_t{1}, uint64_t{300}, UINT64_MAX}) {
      const std::string encoded =
          Bytes(EncodeChunk(plan, int64_t{1} << 40, int64_t{1} << 33,
                            std::as_bytes(std::span<const char>(data.data(), data.size()))));
      worker::v1::TransferRequest request;
      ASSERT_TRUE(request.ParseFromString(encoded));
      EXPECT_EQ(request.chunk().plan(), plan);
      EXPECT_EQ(request.chunk().total_bytes(), int64_t{1} << 40);
      EXPECT_EQ(request.chunk().offset(), int64_t{1} << 33);
      EXPECT_EQ(request.chunk().data(), data);
      EXPECT_EQ(request.GetReflection()->GetUnknownFields(request).field_count(), 0);
      // Byte for byte, but for an empty field, which protobuf leaves out.
      if (size == 0) continue;
      EXPECT_EQ(request.SerializeAsString(), encoded);
    }
  }
}

}  // namespace
}  // namespace penstock
