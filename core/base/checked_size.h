// The one helper through which sizes from a file or the wire are combined. Every value that
// reaches an allocation, an offset or an index is made here, so that no product or sum can wrap.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>

namespace penstock {

// A size in 0 .. 2^63-1, or nothing once any step has left that range. Arithmetic carries the
// failure along: check value() once, at the end.
class CheckedSize {
 public:
  // Implicit, so that numbers may stand in the arithmetic. NOLINTBEGIN(google-explicit-constructor)
  constexpr CheckedSize(int64_t value) { Set(value); }
  constexpr CheckedSize(uint64_t value) {
    if (value <= static_cast<uint64_t>(INT64_MAX)) value_ = static_cast<int64_t>(value);
  }
  constexpr CheckedSize(int value) { Set(value); }
  // NOLINTEND(google-explicit-constructor)

  constexpr std::optional<int64_t> value() const { return value_; }

  // True if the size is known and at most `limit`.
  constexpr bool FitsIn(int64_t limit) const { return value_.has_value() && *value_ <= limit; }

  friend constexpr CheckedSize operator+(CheckedSize a, CheckedSize b) {
    int64_t result = 0;
    if (!a.value_ || !b.value_ || __builtin_add_overflow(*a.value_, *b.value_, &result)) {
      return Nothing();
    }
    return CheckedSize(result);
  }
  friend constexpr CheckedSize operator*(CheckedSize a, CheckedSize b) {
    int64_t result = 0;
    if (!a.value_ || !b.value_ || __builtin_mul_overflow(*a.value_, *b.value_, &result)) {
      return Nothing();
    }
    return CheckedSize(result);
  }
  // Rounded up to a multiple of `unit`. REQUIRES: unit > 0.
  constexpr CheckedSize RoundUp(int64_t unit) const {
    CheckedSize padded = *this + CheckedSize(unit - 1);
    if (padded.value_) *padded.value_ -= *padded.value_ % unit;
    return padded;
  }

 private:
  static constexpr CheckedSize Nothing() { return CheckedSize(int64_t{-1}); }
  constexpr void Set(int64_t value) {
    if (value >= 0) value_ = value;
  }

  std::optional<int64_t> value_;
};

// The product of all, 1 for none.
inline CheckedSize CheckedProduct(std::initializer_list<CheckedSize> factors) {
  CheckedSize product(1);
  for (const CheckedSize& factor : factors) product = product * factor;
  return product;
}

}  // namespace penstock
