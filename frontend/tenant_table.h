// TenantTable: numbers for tenants' names, which the scheduler takes for fairness and to keep their
// prefix caches apart. A number is never given to another name. Names that nobody uses are kept up
// to a bound, the one used longest ago goes first; one that comes back after that is a new tenant.
// Thread rule: one thread, the engine's.
#pragma once

#include <cstdint>
#include <list>
#include <string>

#include "absl/container/flat_hash_map.h"

namespace penstock {

class TenantTable {
 public:
  explicit TenantTable(int64_t max_unused = 4096) : max_unused_(max_unused) {}

  // One user more. The empty name is number 0.
  int32_t Use(const std::string& name);
  // One user less. REQUIRES: it has one.
  void Leave(const std::string& name);

  int64_t size() const { return static_cast<int64_t>(tenants_.size()); }

 private:
  struct Tenant {
    int32_t number = 0;
    int64_t users = 0;
    std::list<std::string>::iterator unused;  // of use without users
  };

  const int64_t max_unused_;
  absl::flat_hash_map<std::string, Tenant> tenants_;
  std::list<std::string> unused_;  // used longest ago first
  int32_t last_number_ = 0;
};

}  // namespace penstock
