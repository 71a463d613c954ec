#include "core/io/mmap_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <vector>

#include "tests/support/status_matchers.h"

namespace penstock {
namespace {

class MmapFileTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "mmap_file_test_XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string Path(const std::string& name) const { return folder_ / name; }
  std::string Write(const std::string& name, const std::vector<uint8_t>& bytes) const {
    std::ofstream(Path(name), std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()),
               static_cast<std::streamsize>(bytes.size()));
    return Path(name);
  }
  static std::vector<uint8_t> Pattern(size_t size) {
    std::vector<uint8_t> bytes(size);
    std::iota(bytes.begin(), bytes.end(), uint8_t{0});
    return bytes;
  }

  std::filesystem::path folder_;
};

TEST_F(MmapFileTest, MapsTheWholeFile) {
  const auto bytes = Pattern(10001);
  const std::string path = Write("whole", bytes);
  const auto file = MmapFile::Open(path);
  ASSERT_TRUE(IsOk(file));
  EXPECT_EQ((*file)->path(), path);
  ASSERT_EQ((*file)->size(), 10001);
  EXPECT_EQ(std::vector<uint8_t>((*file)->data(), (*file)->data() + 10001), bytes);
}

TEST_F(MmapFileTest, CopiesAreTheBytes) {
  const auto bytes = Pattern(70001);
  const auto file = MmapFile::Open(Write("copy", bytes));
  ASSERT_TRUE(IsOk(file));
  const auto in_memory = MmapFile::FromBytes("memory", bytes);
  for (const MmapFile* each : {file->get(), in_memory.get()}) {
    // Below and above what is read instead of touched; to the last byte; nothing.
    for (const auto& [first, count] :
         {std::pair{3, 1000}, {1, 16383}, {1, 16384}, {7, 69994}, {70001, 0}}) {
      std::vector<uint8_t> copy(static_cast<size_t>(count) + 1, 0xee);
      each->Copy(each->data() + first, count, copy.data());
      EXPECT_EQ(copy.back(), 0xee);
      copy.pop_back();
      EXPECT_EQ(copy, std::vector<uint8_t>(bytes.begin() + first, bytes.begin() + first + count));
    }
  }
  EXPECT_TRUE((*file)->Contains((*file)->data() + 70000));
  EXPECT_FALSE((*file)->Contains((*file)->data() + 70001));
  EXPECT_FALSE((*file)->Contains(in_memory->data()));
}

TEST_F(MmapFileTest, PrefetchedBytesAreTheSame) {
  const auto bytes = Pattern(20000);
  const auto file = MmapFile::Open(Write("ahead", bytes));
  ASSERT_TRUE(IsOk(file));
  const uint8_t* data = (*file)->data();
  (*file)->Prefetch(data, 20000);
  (*file)->Prefetch(data + 5000, 1);
  (*file)->Prefetch(data + 20000, 0);
  EXPECT_EQ(std::vector<uint8_t>(data, data + 20000), bytes);
  const auto memory = MmapFile::FromBytes("bytes", bytes);
  memory->Prefetch(memory->data() + 3, 100);
  EXPECT_EQ(memory->data()[3], 3);
}

TEST_F(MmapFileTest, StaysReadableAfterTheFileIsRemoved) {
  const auto bytes = Pattern(5000);
  const auto file = MmapFile::Open(Write("gone", bytes));
  ASSERT_TRUE(IsOk(file));
  std::filesystem::remove(Path("gone"));
  EXPECT_EQ(std::vector<uint8_t>((*file)->data(), (*file)->data() + 5000), bytes);
}

TEST_F(MmapFileTest, ForgottenPagesComeBackWithTheSameBytes) {
  const auto bytes = Pattern(40000);
  const auto file = MmapFile::Open(Write("forget", bytes));
  ASSERT_TRUE(IsOk(file));
  (*file)->Forget((*file)->data() + 100, 30000);
  (*file)->Forget((*file)->data() + 4097, 10);  // no whole page
  (*file)->Forget((*file)->data() + 40000, 0);
  EXPECT_EQ(std::vector<uint8_t>((*file)->data(), (*file)->data() + 40000), bytes);
}

TEST_F(MmapFileTest, ForgettingBytesOfAnotherFileDies) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto file = MmapFile::FromBytes("bytes", Pattern(100));
  EXPECT_DEATH(file->Forget(file->data() + 90, 11), "CHECK failed");
  EXPECT_DEATH(file->Forget(file->data() - 1, 1), "CHECK failed");
}

TEST_F(MmapFileTest, BytesInMemoryAreCopiedAndSurviveForget) {
  auto bytes = Pattern(20000);
  const auto copy = bytes;
  const auto file = MmapFile::FromBytes("bytes", bytes);
  bytes.assign(bytes.size(), 0);
  file->Forget(file->data(), file->size());
  EXPECT_EQ(std::vector<uint8_t>(file->data(), file->data() + file->size()), copy);
  EXPECT_EQ(MmapFile::FromBytes("none", {})->size(), 0);
}

TEST_F(MmapFileTest, AMissingFileIsNotFound) {
  EXPECT_TRUE(Fails(MmapFile::Open(Path("nowhere")), absl::StatusCode::kNotFound,
                    {"nowhere", "No such file", "check the path"}));
  const std::string path = Write("plain", Pattern(10));
  EXPECT_TRUE(Fails(MmapFile::Open(path + "/model.gguf"), absl::StatusCode::kNotFound,
                    {"plain/model.gguf", "Not a directory"}));
}

TEST_F(MmapFileTest, AFolderIsRefused) {
  EXPECT_TRUE(Fails(MmapFile::Open(folder_), absl::StatusCode::kInvalidArgument,
                    {folder_.string(), "directory"}));
}

TEST_F(MmapFileTest, AnEmptyFileIsRefused) {
  EXPECT_TRUE(Fails(MmapFile::Open(Write("empty", {})), absl::StatusCode::kInvalidArgument,
                    {"empty", "fetch it again"}));
}

TEST_F(MmapFileTest, APipeIsRefusedWithoutWaitingForAWriter) {
  ASSERT_EQ(::mkfifo(Path("pipe").c_str(), 0600), 0);
  EXPECT_TRUE(Fails(MmapFile::Open(Path("pipe")), absl::StatusCode::kInvalidArgument,
                    {"pipe", "regular file"}));
}

TEST_F(MmapFileTest, AnUnreadableFileIsPermissionDenied) {
  const std::string path = Write("secret", Pattern(10));
  ASSERT_EQ(::chmod(path.c_str(), 0), 0);
  // Root reads everything, so the question is asked as somebody else.
  constexpr uid_t kNobody = 65534;
  const bool is_root = ::geteuid() == 0;
  if (is_root && ::seteuid(kNobody) != 0) GTEST_SKIP() << "root cannot become another user here";
  const auto file = MmapFile::Open(path);
  if (is_root) {
    ASSERT_EQ(::seteuid(0), 0);
  }
  EXPECT_TRUE(Fails(file, absl::StatusCode::kPermissionDenied, {"secret", "Permission denied"}));
}

}  // namespace
}  // namespace penstock
