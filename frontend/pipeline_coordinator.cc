#include "frontend/pipeline_coordinator.h"

#include <algorithm>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "core/base/check.h"
#include "core/base/log.h"

namespace penstock {
namespace {

// After an epoch failed without a dead stage, the news of one may still be on its way.
constexpr absl::Duration kSettle = absl::Milliseconds(50);
// Before a stage that died again and again is connected once more: doubled each time.
constexpr absl::Duration kFirstRetry = absl::Milliseconds(100);
constexpr int64_t kMaxDoublings = 6;
// Far above any plan: only so that factor times prediction cannot overflow.
constexpr int64_t kMaxPredictedNs = int64_t{1} << 40;

std::string Name(int32_t stage) { return absl::StrCat("stage ", stage); }

StageRecord MakeRecord(int32_t stage, const StageWatch::Plan& plan, const StageTimes& times,
                       absl::Time now) {
  StageRecord record;
  record.stage = stage;
  record.epoch = plan.plan.epoch;
  record.plan = plan.plan.number;
  record.rows = static_cast<int64_t>(plan.plan.rows.size());
  for (const PlanRow& row : plan.plan.rows) {
    const auto tokens = static_cast<int64_t>(row.tokens.size());
    record.tokens += tokens;
    if (tokens > 1 || !row.sample) record.prefill_tokens += tokens;
  }
  record.submitted = plan.submitted;
  record.received = now;
  record.times = times;
  return record;
}

}  // namespace

PipelineCoordinator::PipelineCoordinator(std::unique_ptr<StageProvider> provider,
                                         PipelineOptions options, EngineObserver* observer)
    : options_(std::move(options)),
      observer_(observer == nullptr ? none_ : *observer),
      stage_infos_(options_.layers.size()),
      watch_(static_cast<int32_t>(options_.layers.size()), options_.hang_limit),
      provider_(std::move(provider)),
      stages_(options_.layers.size()) {
  PENSTOCK_CHECK(!options_.layers.empty());
}

PipelineCoordinator::~PipelineCoordinator() = default;

void PipelineCoordinator::SetFlightRecorder(std::unique_ptr<FlightRecorder> recorder) {
  recorder_ = std::move(recorder);
}

void PipelineCoordinator::Start(absl::Time now) {
  PENSTOCK_CHECK_EQ(At(0).serial, 0u);
  for (int32_t stage = 0; stage < num_stages(); ++stage) Connect(stage, now);
}

void PipelineCoordinator::Advance(absl::Time now) {
  // Who was held up itself cannot tell whether others were late.
  const absl::Duration gap = now - advanced_at_;
  if (gap > options_.hang_limit / 2) {
    watch_.Forgive(gap);
    for (Stage& stage : stages_) {
      if (stage.phase != Phase::kAway) stage.until += gap;
    }
  }
  advanced_at_ = now;
  for (StageInbox::Event& event : inbox_->Take()) {
    if (event.serial == At(event.stage).serial && At(event.stage).connection != nullptr) {
      Handle(event.stage, event.event, now);
    }
  }
  if (state_ != PipelineState::kFailed) CheckLimits(now);
  if (state_ != PipelineState::kFailed) Move(now);
}

absl::Status PipelineCoordinator::Named(int32_t stage, const absl::Status& status) const {
  const bool named = num_stages() == 1 || absl::StartsWith(status.message(), Name(stage));
  return named ? status : Annotate(status, Name(stage));
}

bool PipelineCoordinator::All(Phase phase) const {
  return std::all_of(stages_.begin(), stages_.end(),
                     [phase](const Stage& stage) { return stage.phase == phase; });
}

void PipelineCoordinator::Connect(int32_t stage, absl::Time now) {
  Stage& one = At(stage);
  ++one.serial;
  one.phase = Phase::kLoading;
  one.until = now + options_.load_limit;
  watch_.Replace(stage);
  one.connection =
      provider_->Connect(stage, [inbox = inbox_, stage, serial = one.serial](StageEvent event) {
        inbox->Add({stage, serial, std::move(event)});
      });
  StageOptions options = options_.stage;
  options.stage = stage;
  options.num_stages = num_stages();
  options.layers = options_.layers[static_cast<size_t>(stage)];
  if (!options_.devices.empty()) options.device = options_.devices[static_cast<size_t>(stage)];
  if (epoch_ > 0) {
    options.model_hash = info_.model_hash;
    options.num_blocks = info_.num_blocks;
  }
  one.connection->Load(options);
}

void PipelineCoordinator::Handle(int32_t stage, StageEvent& event, absl::Time now) {
  if (auto* progress = std::get_if<LoadProgress>(&event)) {
    OnProgress(stage, *progress, now);
  } else if (auto* info = std::get_if<StageInfo>(&event)) {
    OnInfo(stage, std::move(*info), now);
  } else if (auto* entered = std::get_if<EpochEntered>(&event)) {
    // Of another epoch: one that was given up before the stage had entered it.
    if (entered->epoch != epoch_ || At(stage).phase != Phase::kEntering) return;
    At(stage).phase = Phase::kEntered;
    At(stage).until = absl::InfiniteFuture();
    At(stage).refusals = 0;
  } else if (auto* result = std::get_if<StepResult>(&event)) {
    OnResult(stage, std::move(*result), now);
  } else if (auto* beat = std::get_if<StageBeat>(&event)) {
    watch_.Beat(stage, *beat, now);
    observer_.OnBeat(stage, *beat);
  } else if (auto* failed = std::get_if<EpochFailed>(&event)) {
    OnEpochFailed(stage, *failed, now);
  } else {
    Lose(stage, std::get<StageLost>(event).status, now);
  }
}

void PipelineCoordinator::OnProgress(int32_t stage, const LoadProgress& progress, absl::Time now) {
  if (At(stage).phase != Phase::kLoading) return;
  At(stage).until = now + options_.load_limit;
  At(stage).progress = progress;
  if (epoch_ > 0) return;
  LoadProgress sum;
  sum.tensor = progress.tensor;
  for (const Stage& one : stages_) {
    sum.done += one.progress.done;
    sum.total += one.progress.total;
  }
  progress_(sum);
}

void PipelineCoordinator::OnInfo(int32_t stage, StageInfo info, absl::Time now) {
  if (At(stage).phase != Phase::kLoading) return;
  if (const absl::Status fits = CheckInfo(stage, info); !fits.ok()) return Lose(stage, fits, now);
  At(stage).phase = Phase::kLoaded;
  At(stage).until = absl::InfiniteFuture();
  stage_infos_[static_cast<size_t>(stage)] = std::move(info);
}

absl::Status PipelineCoordinator::CheckInfo(int32_t stage, const StageInfo& info) const {
  const LayerRange& layers = options_.layers[static_cast<size_t>(stage)];
  if (layers.count() > 0 &&
      (info.layers.first != layers.first || info.layers.last != layers.last)) {
    return absl::InternalError(absl::StrCat(
        "it has loaded layers ", info.layers.first, " to ", info.layers.last, " instead of ",
        layers.first, " to ", layers.last, ": worker and front end must be of one version"));
  }
  if (info.num_blocks < 1) {
    return absl::ResourceExhaustedError(
        "it has no room for a single KV block: give it more --kv-memory-mib");
  }
  const StageInfo* other = epoch_ > 0 ? &info_ : nullptr;
  for (int32_t i = 0; i < num_stages() && other == nullptr; ++i) {
    const Phase phase = stages_[static_cast<size_t>(i)].phase;
    if (phase == Phase::kLoaded) other = &stage_infos_[static_cast<size_t>(i)];
  }
  if (other != nullptr && (info.model_hash != other->model_hash ||
                           info.config.vocab_size != other->config.vocab_size)) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "it has loaded another model (hash %016x) than the others (%016x): give every worker the "
        "same model file",
        info.model_hash, other->model_hash));
  }
  if (epoch_ > 0 && info.num_blocks < info_.num_blocks) {
    return absl::ResourceExhaustedError(
        absl::StrCat("it has room for ", info.num_blocks, " KV blocks and the pipeline has ",
                     info_.num_blocks, ": it needs as much memory as the one before"));
  }
  return absl::OkStatus();
}

void PipelineCoordinator::OnResult(int32_t stage, StepResult result, absl::Time now) {
  // Of an epoch that is over: nobody waits for it.
  if (state_ != PipelineState::kReady || result.epoch < epoch_) return;
  const StageWatch::Plan* plan = watch_.Next(stage);
  if (plan == nullptr) {
    return Lose(stage,
                absl::InternalError(absl::StrCat("it has sent a result, of plan ", result.number,
                                                 ", without a plan to answer")),
                now);
  }
  const bool last = stage + 1 == num_stages();
  const absl::Status fits =
      last ? check_.Check(plan->plan, result) : ResultCheck::CheckDone(plan->plan, result);
  if (!fits.ok()) return Lose(stage, fits, now);
  records_.push_back(MakeRecord(stage, *plan, result.times, now));
  watch_.End(stage, now);
  if (!last) return;
  if (recorder_ != nullptr) recorder_->OnResult(result);
  results_.push_back(std::move(result));
}

void PipelineCoordinator::OnEpochFailed(int32_t stage, const EpochFailed& failed, absl::Time now) {
  if (failed.epoch != epoch_) return;
  Stage& one = At(stage);
  if (one.phase == Phase::kEntering ||
      (one.phase == Phase::kEntered && state_ != PipelineState::kReady)) {
    one.phase = Phase::kRefused;
    one.refusal = failed.status;
    return;
  }
  if (state_ != PipelineState::kReady) return;
  const absl::Status status = Named(stage, failed.status);
  if (failed.plan > 0 && absl::IsDeadlineExceeded(status)) {
    return OnStuck(failed.plan, status, now);
  }
  // It lives, and so, as far as anybody has told, do the others.
  EndEpoch(status, now);
  unexplained_ = true;
  CountDeath(status, now);
}

void PipelineCoordinator::CheckLimits(absl::Time now) {
  for (int32_t stage = 0; stage < num_stages(); ++stage) {
    const Stage& one = At(stage);
    if (one.until > now || (one.phase != Phase::kLoading && one.phase != Phase::kEntering))
      continue;
    const bool loads = one.phase == Phase::kLoading;
    Lose(stage,
         absl::DeadlineExceededError(absl::StrCat(
             loads ? "it has told of no progress in loading for " : "it has not entered epoch ",
             loads ? absl::FormatDuration(options_.load_limit)
                   : absl::StrCat(epoch_, " within ",
                                  absl::FormatDuration(2 * options_.connect_limit)))),
         now);
    if (state_ == PipelineState::kFailed) return;
  }
  std::vector<bool> watched;
  for (const Stage& stage : stages_) {
    watched.push_back(stage.phase == Phase::kLoading || stage.phase == Phase::kEntering ||
                      (stage.phase == Phase::kEntered && watch_.busy()));
  }
  if (const StageWatch::Silent silent = watch_.CheckBeats(watched, now); silent.stage) {
    return Lose(*silent.stage,
                absl::UnavailableError(absl::StrCat("it has not been heard of for ",
                                                    absl::FormatDuration(options_.hang_limit),
                                                    ", with work before it: it hangs")),
                now);
  }
  if (const StageWatch::Late late = watch_.CheckPlans(now); late.plan) {
    OnStuck(*late.plan,
            absl::DeadlineExceededError(absl::StrCat("plan ", *late.plan, " is over its limit")),
            now);
  }
}

// Plan `number` did not get on in time.
void PipelineCoordinator::OnStuck(uint64_t plan, const absl::Status& status, absl::Time now) {
  if (const std::optional<int32_t> blamed = watch_.Blame(plan, now)) {
    return Lose(*blamed, Annotate(status, "it holds the pipeline up"), now);
  }
  EndEpoch(status, now);
  unexplained_ = true;
  CountDeath(status, now);
}

// The stage is gone, or not to be trusted any more.
void PipelineCoordinator::Lose(int32_t stage, const absl::Status& status, absl::Time now) {
  Stage& one = At(stage);
  const absl::Status named = Named(stage, status);
  const bool loading = epoch_ == 0;
  if (!loading) {
    LogWarning(absl::StrCat("a stage is lost: ", named.message()));
    observer_.OnStageLost(stage, status);
  }
  one.connection->Kill();
  one.connection.reset();
  one.phase = Phase::kAway;
  const absl::Duration wait =
      one.losses == 0 ? absl::ZeroDuration()
                      : kFirstRetry * (int64_t{1} << std::min(one.losses - 1, kMaxDoublings));
  one.until = now + wait;
  ++one.losses;
  one.refusals = 0;
  if (loading) return GiveUp(named);
  EndEpoch(named, now);
  begin_at_ = now;  // whose fault it was is known
  // Its neighbours' news may have come before its own: that is one death.
  if (!std::exchange(unexplained_, false)) CountDeath(named, now);
}

// The stages that have entered it, or are about to, wait for the next epoch.
void PipelineCoordinator::EndEpoch(const absl::Status& status, absl::Time now) {
  for (Stage& stage : stages_) {
    if (stage.phase == Phase::kAway || stage.phase == Phase::kLoading) continue;
    stage.phase = Phase::kLoaded;
    stage.until = absl::InfiniteFuture();
  }
  begin_at_ = now + kSettle;
  status_ = status;
  if (state_ != PipelineState::kReady) return;
  state_ = PipelineState::kRecovering;
  LogWarning(absl::StrCat("epoch ", epoch_, " is over with ", num_in_flight_,
                          " plans in flight: ", status.message()));
  if (recorder_ != nullptr) {
    FlightRecord record;
    record.stage = options_.stage;
    record.model_hash = info_.model_hash;
    record.num_blocks = info_.num_blocks;
    record.epoch = epoch_;
    record.reason = Message(status);
    recorder_->EndEpoch(std::move(record));
  }
  ended_ = EpochEnd{status, now};
  num_in_flight_ = static_cast<int64_t>(results_.size());
  watch_.BeginEpoch(next_plan_);
}

void PipelineCoordinator::CountDeath(const absl::Status& status, absl::Time now) {
  deaths_.push_back(now);
  while (now - deaths_.front() > options_.death_window) deaths_.pop_front();
  if (static_cast<int64_t>(deaths_.size()) <= options_.max_deaths) return;
  GiveUp(absl::UnavailableError(
      absl::StrCat("the pipeline has failed ", deaths_.size(), " times within ",
                   absl::FormatDuration(options_.death_window), " and is given up; the last time: ",
                   status.message(), "; see the log of the workers, then start the server again")));
}

void PipelineCoordinator::GiveUp(const absl::Status& status) {
  if (state_ != PipelineState::kLoading) LogError(Std(status.message()));
  state_ = PipelineState::kFailed;
  status_ = status;
  for (Stage& stage : stages_) {
    if (stage.connection != nullptr) stage.connection->Kill();
    stage.connection.reset();
    stage.phase = Phase::kAway;
  }
}

// What is due without an event.
void PipelineCoordinator::Move(absl::Time now) {
  for (int32_t stage = 0; stage < num_stages(); ++stage) {
    if (At(stage).phase == Phase::kAway && At(stage).until <= now) Connect(stage, now);
  }
  const auto is = [](Phase phase) {
    return [phase](const Stage& stage) { return stage.phase == phase; };
  };
  // Once every stage has answered: a refusal may be another's fault, so it is tried once more.
  if (std::any_of(stages_.begin(), stages_.end(), is(Phase::kRefused)) &&
      std::none_of(stages_.begin(), stages_.end(), is(Phase::kEntering))) {
    std::optional<int32_t> again;
    absl::Status refusal;
    for (int32_t stage = 0; stage < num_stages(); ++stage) {
      if (At(stage).phase != Phase::kRefused) continue;
      refusal = Named(stage, At(stage).refusal);
      if (++At(stage).refusals > 1) again = stage;
    }
    if (again) {
      Lose(*again, At(*again).refusal, now);
    } else {
      EndEpoch(refusal, now);
    }
  }
  if (All(Phase::kLoaded) && now >= begin_at_) BeginEpoch(now);
  if (All(Phase::kEntered) && state_ != PipelineState::kReady) {
    state_ = PipelineState::kReady;
    status_ = absl::OkStatus();
    unexplained_ = false;
    for (Stage& stage : stages_) stage.losses = 0;
  }
}

void PipelineCoordinator::BeginEpoch(absl::Time now) {
  if (epoch_ == 0) {
    info_ = stage_infos_[0];
    info_.layers = {0, info_.config.num_layers};
    for (size_t i = 1; i < stage_infos_.size(); ++i) {
      info_.num_blocks = std::min(info_.num_blocks, stage_infos_[i].num_blocks);
      info_.weight_bytes += stage_infos_[i].weight_bytes;
      info_.block_bytes += stage_infos_[i].block_bytes;
      info_.load_ns = std::max(info_.load_ns, stage_infos_[i].load_ns);
    }
    check_.SetVocabulary(info_.config.vocab_size);
  }
  // Workers may have served another front end, and know of its epochs.
  for (const StageInfo& stage : stage_infos_) epoch_ = std::max(epoch_, stage.last_epoch);
  ++epoch_;
  check_.Clear();
  watch_.BeginEpoch(next_plan_);
  if (recorder_ != nullptr) recorder_->BeginEpoch();
  for (int32_t stage = 0; stage < num_stages(); ++stage) {
    EpochStart start;
    start.epoch = epoch_;
    start.first_plan = next_plan_;
    start.num_blocks = info_.num_blocks;
    const bool last = stage + 1 == num_stages();
    if (!last) start.next = stage_infos_[static_cast<size_t>(stage) + 1].address;
    if (last && stage > 0) start.first = stage_infos_[0].address;
    start.connect_ns = absl::ToInt64Nanoseconds(options_.connect_limit);
    At(stage).phase = Phase::kEntering;
    At(stage).until = now + 2 * options_.connect_limit;
    At(stage).connection->BeginEpoch(start);
  }
}

void PipelineCoordinator::Submit(StepPlan plan, int64_t predicted_ns, absl::Time now) {
  PENSTOCK_CHECK(state_ == PipelineState::kReady && !ended_);
  PENSTOCK_CHECK_EQ(plan.number, next_plan_);
  ++next_plan_;
  plan.epoch = epoch_;
  if (options_.min_plan_limit != absl::InfiniteDuration()) {
    plan.limit_ns = std::max(absl::ToInt64Nanoseconds(options_.min_plan_limit),
                             std::min(predicted_ns, kMaxPredictedNs) * options_.plan_limit_factor);
  }
  ++num_in_flight_;
  if (recorder_ != nullptr) recorder_->OnPlan(plan);
  for (Stage& stage : stages_) stage.connection->Submit(plan);
  watch_.Submit(std::move(plan), now);
}

std::optional<StepResult> PipelineCoordinator::Take() {
  if (results_.empty()) return std::nullopt;
  StepResult result = std::move(results_.front());
  results_.pop_front();
  --num_in_flight_;
  return result;
}

std::optional<PipelineCoordinator::EpochEnd> PipelineCoordinator::TakeEpochEnd() {
  PENSTOCK_CHECK(results_.empty());
  return std::exchange(ended_, std::nullopt);
}

absl::Time PipelineCoordinator::NextTime(absl::Time now) const {
  absl::Time next = absl::InfiniteFuture();
  if (state_ == PipelineState::kFailed) return next;
  bool watching = watch_.busy();
  for (const Stage& stage : stages_) {
    next = std::min(next, stage.until);
    watching = watching || stage.phase == Phase::kLoading || stage.phase == Phase::kEntering;
  }
  if (All(Phase::kLoaded)) next = std::min(next, begin_at_);
  next = std::min(next, watch_.CheckPlans(now).next);
  // Often enough to notice having been held up.
  return watching ? std::min(next, now + options_.hang_limit / 4) : next;
}

}  // namespace penstock
