// A stage's door for rows by NCCL, over another kind's door, which carries tokens and headers; and
// the stand-in for the library (fake_nccl.cc), PENSTOCK_FAKE_NCCL's file.
#pragma once

#include <cstdlib>
#include <memory>
#include <string>
#include <utility>

#include "core/base/check.h"
#include "tests/support/local_endpoint.h"
#include "tests/support/transport_ends.h"
#include "worker/backends.h"
#include "worker/transport/nccl_transport.h"

namespace penstock::testing {

// For the length of a test; nothing else in the process reads the environment then.
class ScopedVariable {
 public:
  ScopedVariable(const char* name, const char* value) : name_(name) {
    const char* const old = std::getenv(name);
    if (old != nullptr) old_ = old;
    was_set_ = old != nullptr;
    setenv(name, value, /*overwrite=*/1);
  }
  ~ScopedVariable() {
    if (was_set_) {
      setenv(name_, old_.c_str(), /*overwrite=*/1);
    } else {
      unsetenv(name_);
    }
  }
  ScopedVariable(const ScopedVariable&) = delete;
  ScopedVariable& operator=(const ScopedVariable&) = delete;

 private:
  const char* const name_;
  std::string old_;
  bool was_set_ = false;
};

class NcclEndpoint final : public Endpoint {
 public:
  NcclEndpoint(std::unique_ptr<Endpoint> others, const std::string& device,
               const TransportOptions& transport, absl::Duration abort_limit = absl::Seconds(10))
      : others_(std::move(others)) {
    NcclTransportOptions options;
    options.transport = transport;
    options.abort_limit = abort_limit;
    auto library = NcclLibrary::Open();
    PENSTOCK_CHECK(library.ok());
    options.library = *std::move(library);
    for (auto* stream : {&options.in, &options.out}) {
      auto made = MakeLinkStream(device, kNcclPieceBytes);
      PENSTOCK_CHECK(made.ok());
      *stream = *std::move(made);
    }
    transport_ = MakeNcclTransport(others_->transport(), options);
  }
  Transport& transport() override { return *transport_; }

 private:
  const std::unique_ptr<Endpoint> others_;
  std::unique_ptr<Transport> transport_;
};

#ifdef PENSTOCK_FAKE_NCCL
// With the stand-in, over the local transport.
inline TransportKind FakeNcclKind() {
  return {"Fake", [] {
            setenv("PENSTOCK_NCCL_LIBRARY", PENSTOCK_FAKE_NCCL, /*overwrite=*/1);
            return [make_local = LocalKind().make_world()](const TransportOptions& options) {
              return std::make_unique<NcclEndpoint>(make_local(options), "cpu", options);
            };
          }};
}
#endif

}  // namespace penstock::testing
