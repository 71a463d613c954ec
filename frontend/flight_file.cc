#include "frontend/flight_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <future>
#include <memory>
#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "core/base/log.h"
#include "core/base/task_thread.h"
#include "penstock/worker/v1/flight.pb.h"
#include "proto/worker_codec.h"

namespace penstock {
namespace {

std::string Encode(const FlightRecord& record) {
  worker::v1::FlightRecord message;
  EncodeStageOptions(record.stage, message.mutable_stage());
  message.set_model_hash(record.model_hash);
  message.set_num_blocks(record.num_blocks);
  message.set_epoch(record.epoch);
  message.set_reason(record.reason);
  for (const FlightEntry& entry : record.entries) {
    worker::v1::FlightEntry& one = *message.add_entries();
    EncodeStepPlan(entry.plan, one.mutable_plan());
    if (entry.result) EncodeStepResult(*entry.result, one.mutable_result());
  }
  return message.SerializeAsString();
}

absl::Status WriteAll(int file, const std::string& bytes) {
  for (size_t done = 0; done < bytes.size();) {
    const ssize_t count = write(file, bytes.data() + done, bytes.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return absl::UnavailableError(strerror(errno));
    done += static_cast<size_t>(count);
  }
  return absl::OkStatus();
}

// In one step, so that there is never half a record.
absl::Status WriteFile(const std::string& path, const std::string& bytes) {
  const std::string temporary = absl::StrCat(path, ".part");
  const int file = open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (file < 0) return absl::UnavailableError(strerror(errno));
  absl::Status status = WriteAll(file, bytes);
  if (close(file) != 0 && status.ok()) status = absl::UnavailableError(strerror(errno));
  if (status.ok() && rename(temporary.c_str(), path.c_str()) != 0) {
    status = absl::UnavailableError(strerror(errno));
  }
  if (!status.ok()) unlink(temporary.c_str());
  return status;
}

class Writer {
 public:
  explicit Writer(std::string dir) : dir_(std::move(dir)) {}
  ~Writer() {
    std::promise<void> done;
    thread_.Enqueue([&done] { done.set_value(); });
    done.get_future().wait();
  }
  void Write(FlightRecord record) {
    const std::string path = absl::StrCat(
        dir_, "/flight-", absl::FormatTime("%Y%m%d-%H%M%S", absl::Now(), absl::UTCTimeZone()), "-",
        getpid(), "-epoch-", record.epoch, ".pb");
    thread_.Enqueue([path, record = std::move(record)] {
      const absl::Status status = WriteFile(path, Encode(record));
      if (status.ok()) {
        LogInfo(absl::StrCat("the plans of epoch ", record.epoch, " are in ", path,
                             ": run them again with penstock replay"));
      } else {
        LogWarning(absl::StrCat("cannot write the flight record ", path, ": ", status.message(),
                                ": give --flight-recorder-dir a writable folder"));
      }
    });
  }

 private:
  const std::string dir_;
  TaskThread thread_;
};

}  // namespace

FlightRecorder::Writer MakeFlightWriter(const std::string& dir) {
  return [writer = std::make_shared<Writer>(dir)](FlightRecord record) {
    writer->Write(std::move(record));
  };
}

absl::StatusOr<FlightRecord> ReadFlightRecord(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    return absl::NotFoundError(
        absl::StrCat(path,
                     ": cannot be read: name a file that penstock serve --flight-recorder-dir has "
                     "written"));
  }
  worker::v1::FlightRecord message;
  if (!message.ParseFromIstream(&file)) {
    return absl::InvalidArgumentError(absl::StrCat(
        path,
        ": is no flight record: name a file that penstock serve --flight-recorder-dir has "
        "written"));
  }
  FlightRecord record;
  PENSTOCK_ASSIGN_OR_RETURN(record.stage, DecodeStageOptions(message.stage()));
  record.model_hash = message.model_hash();
  record.num_blocks = message.num_blocks();
  record.epoch = message.epoch();
  record.reason = message.reason();
  for (const worker::v1::FlightEntry& one : message.entries()) {
    FlightEntry& entry = record.entries.emplace_back();
    absl::StatusOr<StepPlan> plan = DecodeStepPlan(one.plan());
    if (!plan.ok()) return Annotate(plan.status(), path);
    entry.plan = *std::move(plan);
    if (!one.has_result()) continue;
    absl::StatusOr<StepResult> result = DecodeStepResult(one.result());
    if (!result.ok()) return Annotate(result.status(), path);
    entry.result = *std::move(result);
  }
  return record;
}

}  // namespace penstock
