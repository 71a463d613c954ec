// The client's side of penstock.v1.SamplingParams: the fields that were given, as a message. A pure
// function; the server checks them.
#pragma once

#include "frontend/client_request.h"
#include "penstock/v1/inference.pb.h"

namespace penstock {

void EncodeSampling(const ClientSampling& sampling, v1::SamplingParams* message);

}  // namespace penstock
