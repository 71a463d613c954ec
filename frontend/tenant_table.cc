#include "frontend/tenant_table.h"

#include <cstdint>

#include "core/base/check.h"

namespace penstock {

int32_t TenantTable::Use(const std::string& name) {
  if (name.empty()) return 0;
  const auto [found, is_new] = tenants_.try_emplace(name);
  Tenant& tenant = found->second;
  if (is_new) {
    PENSTOCK_CHECK_LT(last_number_, INT32_MAX);
    tenant.number = ++last_number_;
  } else if (tenant.users == 0) {
    unused_.erase(tenant.unused);
  }
  ++tenant.users;
  return tenant.number;
}

void TenantTable::Leave(const std::string& name) {
  if (name.empty()) return;
  Tenant& tenant = tenants_.at(name);
  PENSTOCK_CHECK_GT(tenant.users, 0);
  if (--tenant.users > 0) return;
  tenant.unused = unused_.insert(unused_.end(), name);
  if (static_cast<int64_t>(unused_.size()) <= max_unused_) return;
  tenants_.erase(unused_.front());
  unused_.pop_front();
}

}  // namespace penstock
