// The program's log: one line an event, on standard error. Thread-safe. It never holds a prompt,
// a token or a key.
#pragma once

#include <string_view>

namespace penstock {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

// Lines below `level` are dropped from now on. The default is kInfo.
void SetLogLevel(LogLevel level);

// Stands before every line from now on: whose line it is, where several processes share a log.
void SetLogName(std::string_view name);

void Log(LogLevel level, std::string_view line);
inline void LogInfo(std::string_view line) { Log(LogLevel::kInfo, line); }
inline void LogWarning(std::string_view line) { Log(LogLevel::kWarning, line); }
inline void LogError(std::string_view line) { Log(LogLevel::kError, line); }

}  // namespace penstock
