#include <cstdio>

#include "frontend/command_flags.h"
#include "frontend/generate_command.h"

namespace penstock {
namespace {

constexpr const char* kGroup = "Choice of tokens";
constexpr const char* kEndGroup = "End of an answer";

}  // namespace

void SamplingFlags::Add(CLI::App* app, ClientSampling* sampling) {
  const auto add = [app](const char* name, auto* value, const char* help, const char* unit,
                         const char* group) {
    app->add_option(name, *value, help)->type_name(unit)->group(group);
  };
  add("--temperature", &sampling->temperature,
      "0: always the most likely token; 1: the model's own distribution (default 1); below 0.00001 "
      "counts as 0",
      "T", kGroup);
  add("--top-k", &sampling->top_k, "Sample from the k most likely tokens (0: all)", "K", kGroup);
  add("--top-p", &sampling->top_p,
      "Sample from the most likely tokens that together have probability p (1: all)", "P", kGroup);
  add("--min-p", &sampling->min_p,
      "Sample from the tokens at least p times as likely as the likeliest (0: all)", "P", kGroup);
  add("--repetition-penalty", &sampling->repetition_penalty,
      "Divides positive logits of tokens that were in the prompt or the answer, multiplies "
      "negative "
      "ones (1: none)",
      "X", kGroup);
  add("--presence-penalty", &sampling->presence_penalty,
      "Taken off the logit of a token that the answer holds, -2 to 2 (0: none)", "X", kGroup);
  add("--frequency-penalty", &sampling->frequency_penalty,
      "The same for each time that it holds it", "X", kGroup);
  app->add_option("--logit-bias", logit_bias_,
                  "Added to the logit of a token: its id, = and -100 to 100; may be given again")
      ->type_name("ID=B")
      ->allow_extra_args(false)
      ->group(kGroup);
  app->add_option("--bad-word", sampling->bad_words,
                  "A text that the answer never completes; may be given again")
      ->type_name("TEXT")
      ->allow_extra_args(false)
      ->group(kGroup);
  add("--seed", &sampling->seed,
      "The same seed and prompt give the same answer (default: drawn, and told)", "N", kGroup);
  add("--max-tokens", &sampling->max_tokens,
      "Tokens to generate at most (default: the server's, 256). The model's end token and the "
      "context's end come before",
      "N", kEndGroup);
  add("--min-tokens", &sampling->min_tokens, "Tokens before anything else may end an answer", "N",
      kEndGroup);
  app->add_option("--stop", sampling->stop,
                  "A text that ends the answer where it is complete; may be given again")
      ->type_name("TEXT")
      ->allow_extra_args(false)
      ->group(kEndGroup);
  app->add_option("--stop-id", sampling->stop_ids,
                  "A token that ends the answer; may be given again")
      ->type_name("ID")
      ->allow_extra_args(false)
      ->group(kEndGroup);
  app->add_flag("--include-stop", sampling->include_stop,
                "Leave the text that ended the answer in it")
      ->group(kEndGroup);
  app->add_flag("--ignore-eos", sampling->ignore_eos,
                "The model's end token does not end an answer")
      ->group(kEndGroup);
}

void SamplingFlags::AddForScripts(CLI::App* app, ClientSampling* sampling) {
  app->add_option("--n", sampling->n, "Answers to this prompt (default 1)")->type_name("N");
  app->add_option("--logprobs", sampling->logprobs,
                  "With --json: the k likeliest tokens at each place of the answer")
      ->type_name("K");
  app->add_option("--prompt-logprobs", sampling->prompt_logprobs,
                  "With --json: the log-probability of each token of the prompt, and the k "
                  "likeliest at its place")
      ->type_name("K");
}

bool SamplingFlags::Apply(ClientSampling* sampling) const {
  for (const std::string& text : logit_bias_) {
    const absl::StatusOr<LogitBias> bias = ParseLogitBias(text);
    if (!bias.ok()) {
      fprintf(stderr, "--logit-bias: %s\n", Message(bias.status()).c_str());
      return false;
    }
    sampling->logit_bias.push_back(*bias);
  }
  return true;
}

}  // namespace penstock
