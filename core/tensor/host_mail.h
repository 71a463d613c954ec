// Mail by memory that processes of one host share: what cuda/device_mail.h is between GPUs, for
// stages on the CPU, where a call that enqueues does its work. A wait sleeps by futex (futex(2)),
// in slices, between which it looks for a cancel and the time.
#pragma once

#include <memory>

#include "core/tensor/device_mail.h"

namespace penstock {

std::unique_ptr<DeviceMail> MakeHostMail(int64_t vocab_size);

}  // namespace penstock
