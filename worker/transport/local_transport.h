// The transport between stages of one process. The stages that may reach each other share an
// exchange; there is nothing global.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "worker/transport/lane_table.h"
#include "worker/transport/transport.h"

namespace penstock {

// Which addresses there are. Thread rule: any thread.
class LocalExchange {
 public:
  // A new address for `table`: "local:3".
  std::string Add(const std::shared_ptr<LaneTable>& table);
  void Remove(const std::string& address);
  // Null: there is none, or no more.
  std::shared_ptr<LaneTable> Find(const std::string& address);

 private:
  std::mutex mutex_;
  int64_t last_ = 0;                                          // guarded by mutex_
  std::map<std::string, std::shared_ptr<LaneTable>> tables_;  // guarded by mutex_
};

std::unique_ptr<Transport> MakeLocalTransport(std::shared_ptr<LocalExchange> exchange,
                                              const TransportOptions& options = {});

}  // namespace penstock
