"""What a request may ask for, over the network: several answers, ends, log-probabilities, chats,
time limits; and the limits that a server sets."""

import concurrent.futures
import unittest

from program import ProgramTest, Server, generate, run, setUpModule, text

STORY = ("--prompt", "Once upon a time")
SAMPLED = ("--temperature", "1", "--seed", "11")


class SamplingTest(ProgramTest):
    @classmethod
    def setUpClass(cls):
        cls.server = Server()
        cls.addClassCleanup(cls.server.close)

    def generate(self, *arguments):
        return generate(*arguments, server=self.server)

    def test_several_answers(self):
        arguments = (*STORY, *SAMPLED, "--max-tokens", "16")
        one = self.generate(*arguments)
        four = self.generate(*arguments, "--n", "4")
        self.assertEqual(four["prompt_ids"], one["prompt_ids"])
        self.assertEqual(len(four["choices"]), 4)
        self.assertEqual(four["choices"][0]["ids"], one["ids"])
        self.assertEqual(len({answer["text"] for answer in four["choices"]}), 4)
        self.assertEqual(self.generate(*arguments, "--n", "4"), four)

    def test_several_answers_of_several_clients(self):
        arguments = (*STORY, *SAMPLED, "--max-tokens", "12", "--n", "3")
        expected = self.generate(*arguments)
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _: self.generate(*arguments), range(8)))
        self.assertEqual(answers, [expected] * 8)

    def test_a_stop_text_ends_an_answer(self):
        arguments = (*STORY, "--max-tokens", "60")
        whole = self.generate(*arguments)
        stop = whole["text"][20:27]
        place = whole["text"].find(stop)
        answer = self.generate(*arguments, "--stop", "never there", "--stop", stop)
        self.assertEqual(answer["text"], whole["text"][:place])
        self.assertEqual(answer["finish_reason"], "stop")
        self.assertEqual(answer["stop_text"], stop)
        self.assertEqual(answer["ids"], whole["ids"][:len(answer["ids"])])
        self.assertLess(len(answer["ids"]), 20)
        kept = self.generate(*arguments, "--stop", stop, "--include-stop")
        self.assertEqual(kept["text"], answer["text"] + stop)
        self.assertEqual(kept["ids"], answer["ids"])
        # Not within the first ten tokens.
        later = self.generate(*arguments, "--stop", "e", "--min-tokens", "10")
        self.assertGreater(len(later["ids"]), 10)
        self.assertTrue(whole["text"].startswith(later["text"]))

    def test_a_stop_text_streams_nothing_of_itself(self):
        arguments = (*STORY, "--max-tokens", "60", "--temperature", "0")
        whole = self.generate(*arguments)["text"]
        stop = whole[30:36]
        plain = run("generate", "--server", self.server.address, *arguments, "--stop", stop)
        self.assertEqual(text(plain.stdout), whole[:whole.find(stop)] + "\n")

    def test_stop_ids_and_end_tokens(self):
        arguments = (*STORY, "--max-tokens", "30")
        whole = self.generate(*arguments)
        stop = whole["ids"][7]
        answer = self.generate(*arguments, "--stop-id", str(stop))
        self.assertEqual(answer["ids"], whole["ids"][:whole["ids"].index(stop) + 1])
        self.assertEqual((answer["finish_reason"], answer["stop_id"]), ("stop", stop))
        chat = ("--prompt", "<|im_start|>user\nSay yes<|im_end|>\n<|im_start|>assistant\n",
                "--special", "--max-tokens", "80")
        ended = self.generate(*chat)
        self.assertEqual((ended["finish_reason"], ended["stop_id"]), ("stop", 2))
        self.assertEqual(len(self.generate(*chat, "--ignore-eos")["ids"]), 80)
        longer = self.generate(*chat, "--min-tokens", str(len(ended["ids"]) + 5))
        self.assertGreater(len(longer["ids"]), len(ended["ids"]) + 5)

    def test_what_steers_the_choice(self):
        arguments = ("--prompt", "The capital of France is", "--max-tokens", "8")
        answer = self.generate(*arguments)
        self.assertTrue(answer["text"].startswith(" Paris"))
        paris = answer["ids"][0]
        self.assertNotIn("Paris", self.generate(*arguments, "--bad-word", "Paris")["text"])
        self.assertNotIn(paris, self.generate(*arguments, "--logit-bias", f"{paris}=-100")["ids"])
        forced = self.generate(*arguments, "--logit-bias", f"{paris}=100")
        self.assertEqual(forced["ids"], [paris] * 8)
        # The model's own distribution is told, before all that.
        self.assertEqual(forced["logprobs"][0], answer["logprobs"][0])
        penalty = self.generate(*STORY, "--max-tokens", "60", "--repetition-penalty", "2",
                                "--presence-penalty", "2", "--frequency-penalty", "2")
        self.assertGreater(len(set(penalty["ids"])), 50)
        nearly_greedy = self.generate(*STORY, *SAMPLED, "--max-tokens", "20", "--min-p", "1")
        self.assertEqual(nearly_greedy["ids"], self.generate(*STORY, "--max-tokens", "20")["ids"])

    def test_log_probabilities_with_alternatives(self):
        answer = self.generate(*STORY, "--max-tokens", "10", "--logprobs", "4")
        self.assertEqual(len(answer["top_logprobs"]), 10)
        for token, logprob, top in zip(answer["ids"], answer["logprobs"], answer["top_logprobs"]):
            self.assertEqual(top[0], {"id": token, "logprob": logprob})  # it is greedy
            values = [one["logprob"] for one in top]
            self.assertEqual((len(top), values), (4, sorted(values, reverse=True)))

    def test_log_probabilities_of_the_prompt_are_those_of_the_answer(self):
        answer = self.generate(*STORY, *SAMPLED, "--max-tokens", "20")
        ids = answer["prompt_ids"] + answer["ids"]
        again = self.generate("--prompt-ids", ",".join(map(str, ids)), "--max-tokens", "1",
                              "--prompt-logprobs", "2")
        told = again["prompt_logprobs"]
        self.assertEqual([one["id"] for one in told], ids[1:])
        self.assertEqual([one["logprob"] for one in told][-20:], answer["logprobs"])
        self.assertTrue(all(len(one["top"]) == 2 for one in told))

    def test_a_refusal_names_the_field_and_its_limit(self):
        for arguments, words in (
                (("--n", "17"), "n is 17: it must be 1 to 16"),
                (("--logprobs", "21"), "logprobs is 21.*20"),
                (("--prompt-logprobs", "-1"), "prompt_logprobs is -1"),
                (("--min-p", "1.5"), "min_p is 1.5: it must be 0 to 1"),
                (("--repetition-penalty", "0"), "repetition_penalty is 0"),
                (("--presence-penalty", "nan"), "presence_penalty is nan"),
                (("--frequency-penalty", "-2.5"), "frequency_penalty is -2.5"),
                (("--logit-bias", "49152=1"), "token id 49152.*0 to 49151"),
                (("--logit-bias", "5=101"), "token id 5 is 101"),
                (("--stop", ""), r"stop\[0\] is empty"),
                (("--stop", "x" * 257), r"stop\[0\] has 257 bytes.*256"),
                (("--stop-id", "-1"), "token id -1 at position 0 of stop_ids"),
                (("--bad-word", " "), r"bad_words\[0\] has no tokens"),
                (("--min-tokens", "9", "--max-tokens", "8"), "min_tokens is 9 and max_tokens 8")):
            with self.subTest(arguments=arguments):
                result = run("generate", "--server", self.server.address, "--json", *STORY,
                             *arguments)
                self.assertFails(result, 1, "INVALID_ARGUMENT", words)


class LimitsTest(ProgramTest):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--default-timeout", "1", "--max-new-tokens", "4000", "--max-n", "2",
                            "--max-logprobs", "0", "--max-prompt-bytes", "1000",
                            "--max-queued-tokens", "8000", "--max-stop-texts", "1",
                            "--max-priority", "5", "--max-stream-buffer-kib", "64",
                            "--slow-reader-timeout", "1")
        cls.addClassCleanup(cls.server.close)

    def check(self, arguments, *words):
        result = run("generate", "--server", self.server.address, "--json", *arguments)
        self.assertFails(result, 1, *words)

    def test_settings_bound_requests(self):
        self.check((*STORY, "--max-tokens", "4001"), "INVALID_ARGUMENT", "--max-new-tokens")
        self.check((*STORY, "--n", "3"), "INVALID_ARGUMENT", "1 to 2 .*--max-n")
        self.check((*STORY, "--logprobs", "1"), "INVALID_ARGUMENT", "--max-logprobs")
        self.check((*STORY, "--stop", "a", "--stop", "b"), "INVALID_ARGUMENT", "--max-stop-texts")
        self.check((*STORY, "--priority", "-6"), "INVALID_ARGUMENT", "-5 to 5 .*--max-priority")
        self.check((*STORY, "--tenant", "t" * 257), "INVALID_ARGUMENT", "257 bytes")
        self.assertEqual(len(generate(*STORY, "--priority", "5", "--tenant", "t\u00e9am",
                                      "--max-tokens", "2", server=self.server)["ids"]), 2)
        self.check(("--prompt", "a" * 1001), "OUT_OF_RANGE", "1001 bytes.*--max-prompt-bytes")
        self.check((*STORY, "--n", "2", "--max-tokens", "4000"), "OUT_OF_RANGE",
                   "for each of 2 answers", "--max-queued-tokens")
        self.assertEqual(len(generate(*STORY, "--max-tokens", "2", server=self.server)["ids"]), 2)

    def test_a_request_without_a_deadline_gets_the_servers(self):
        self.check((*STORY, "--ignore-eos", "--max-tokens", "4000"), "DEADLINE_EXCEEDED",
                   "time limit")
        self.assertEqual(len(generate(*STORY, "--max-tokens", "2", server=self.server)["ids"]), 2)


if __name__ == "__main__":
    unittest.main()
