#include "core/base/log.h"

#include <memory>
#include <string>

#include "spdlog/sinks/stdout_color_sinks.h"
#include "spdlog/spdlog.h"

namespace penstock {
namespace {

spdlog::logger& Logger() {
  static const std::shared_ptr<spdlog::logger> logger = [] {
    auto made = spdlog::stderr_color_mt("penstock");
    made->set_pattern("%Y-%m-%d %H:%M:%S.%e %^%l%$ %v");
    return made;
  }();
  return *logger;
}

spdlog::level::level_enum ToSpdlog(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarning:
      return spdlog::level::warn;
    case LogLevel::kError:
      break;
  }
  return spdlog::level::err;
}

}  // namespace

void SetLogLevel(LogLevel level) { Logger().set_level(ToSpdlog(level)); }

void SetLogName(std::string_view name) {
  std::string escaped;
  for (const char each : name) escaped.append(each == '%' ? 2 : 1, each);
  Logger().set_pattern("%Y-%m-%d %H:%M:%S.%e %^%l%$ " + escaped + ": %v");
}

void Log(LogLevel level, std::string_view line) { Logger().log(ToSpdlog(level), "{}", line); }

}  // namespace penstock
