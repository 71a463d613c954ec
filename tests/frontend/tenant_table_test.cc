#include "frontend/tenant_table.h"

#include <gtest/gtest.h>

#include <set>

#include "absl/strings/str_cat.h"

namespace penstock {
namespace {

TEST(TenantTable, ANameKeepsItsNumber) {
  TenantTable tenants;
  EXPECT_EQ(tenants.Use(""), 0);
  const int32_t a = tenants.Use("a");
  const int32_t b = tenants.Use("b");
  EXPECT_NE(a, 0);
  EXPECT_NE(a, b);
  EXPECT_EQ(tenants.Use("a"), a);
  for (int i = 0; i < 2; ++i) tenants.Leave("a");
  tenants.Leave("");
  EXPECT_EQ(tenants.Use("a"), a);
}

// A number that came again would open one tenant's cached prompts to another.
TEST(TenantTable, ForgetsTheNameUnusedLongestAndNeverGivesItsNumberAgain) {
  TenantTable tenants(/*max_unused=*/2);
  std::set<int32_t> numbers;
  for (int i = 0; i < 100; ++i) {
    EXPECT_TRUE(numbers.insert(tenants.Use(absl::StrCat("tenant ", i))).second);
    tenants.Leave(absl::StrCat("tenant ", i));
  }
  EXPECT_EQ(tenants.size(), 2);
  EXPECT_EQ(numbers.count(tenants.Use("tenant 99")), 1u);
  EXPECT_EQ(numbers.count(tenants.Use("tenant 98")), 1u);
  EXPECT_EQ(numbers.count(tenants.Use("tenant 97")), 0u);
}

TEST(TenantTable, ANameInUseStays) {
  TenantTable tenants(/*max_unused=*/0);
  const int32_t a = tenants.Use("a");
  tenants.Use("b");
  tenants.Leave("b");
  EXPECT_EQ(tenants.size(), 1);
  EXPECT_EQ(tenants.Use("a"), a);
}

}  // namespace
}  // namespace penstock
