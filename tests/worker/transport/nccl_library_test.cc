#include "worker/transport/nccl_library.h"

#include <gtest/gtest.h>

#include "tests/support/nccl_endpoint.h"
#include "tests/support/status_matchers.h"

namespace penstock::testing {
namespace {

constexpr char kLibrary[] = "PENSTOCK_NCCL_LIBRARY";

TEST(NcclLibraryTest, OpensTheFileThatIsNamed) {
  const ScopedVariable file(kLibrary, PENSTOCK_FAKE_NCCL);
  const auto library = NcclLibrary::Open();
  ASSERT_TRUE(IsOk(library));
  EXPECT_EQ((*library)->Version(), "2.28.9");
  EXPECT_TRUE((*library)->takes_host_memory);
  EXPECT_EQ((*library)->Reason(3, nullptr), "internal error (3): the stand-in was told to");
}

TEST(NcclLibraryTest, WhereThereIsNoneItSaysWhatToDo) {
  const ScopedVariable file(kLibrary, "/nowhere/libnccl.so.2");
  EXPECT_TRUE(Fails(NcclLibrary::Open(), absl::StatusCode::kFailedPrecondition,
                    {"/nowhere/libnccl.so.2", "libnccl2", kLibrary, "--transport grpc"}));
}

TEST(NcclLibraryTest, AnotherLibraryIsRefused) {
  const ScopedVariable file(kLibrary, "libm.so.6");
  EXPECT_TRUE(Fails(NcclLibrary::Open(), absl::StatusCode::kFailedPrecondition,
                    {"libm.so.6 is no NCCL", "ncclGetVersion", "--transport grpc"}));
}

TEST(NcclLibraryTest, AnOldOneIsRefused) {
  const ScopedVariable file(kLibrary, PENSTOCK_FAKE_NCCL);
  {
    const ScopedVariable version("FAKE_NCCL_VERSION", "21705");
    EXPECT_TRUE(Fails(NcclLibrary::Open(), absl::StatusCode::kFailedPrecondition,
                      {"2.17.5", "too old", "2.18"}));
  }
  const ScopedVariable version("FAKE_NCCL_VERSION", "21800");
  EXPECT_TRUE(IsOk(NcclLibrary::Open()));
}

// As the library reads it: by offsets.
TEST(NcclLibraryTest, TheConfigLiesAsNcclDeclaresIt) {
  EXPECT_EQ(sizeof(NcclId), 128u);
  EXPECT_EQ(offsetof(NcclConfig, magic), 8u);
  EXPECT_EQ(offsetof(NcclConfig, version), 12u);
  EXPECT_EQ(offsetof(NcclConfig, blocking), 16u);
  EXPECT_EQ(offsetof(NcclConfig, max_ctas), 28u);
  EXPECT_EQ(offsetof(NcclConfig, net_name), 32u);
  EXPECT_EQ(offsetof(NcclConfig, split_share), 40u);
  EXPECT_EQ(sizeof(NcclConfig), 48u);
}

}  // namespace
}  // namespace penstock::testing
